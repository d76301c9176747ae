/**
 * Two versions of really different source: this one, and the program that HEADWATER_OLDER names, which scripts/test builds of an earlier commit. Each
 * takes the other's place by an update, under traffic, and each goes on with what the other has left: its journal, the state of its slots, a release
 * that is half here, settings that came by command. What Kafka holds is looked at from the first stream to the last.
 */

import assert from "node:assert/strict";
import { copyFileSync, existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { durable } from "./harness/journal.js";
import { Link } from "./harness/link.js";
import { binaries, scenario } from "./harness/site.js";
import { until } from "./harness/until.js";
import {
  ask,
  check,
  fleet,
  image,
  online,
  runs,
  stage,
  startAgent,
  strip,
  versionOf,
} from "./harness/updates.js";

const OLDER = process.env.HEADWATER_OLDER;
/** What is on its way when the one takes the other's place; newer than both. */
const LATEST = "9.0.0";

/** The program of HEADWATER_OLDER, once it is built: meanwhile other tests run. Where it cannot be, a file beside it says why. */
async function older() {
  if (OLDER === undefined) return { why: "HEADWATER_OLDER names no earlier program" };
  const built = () => existsSync(OLDER) || existsSync(`${OLDER}.why`);
  await until("the older program is built, or cannot be", built, 900_000);
  return existsSync(OLDER) ? { program: OLDER } : { why: readFileSync(`${OLDER}.why`, "utf8").trim() };
}

/** What is durable of a device and was not acknowledged: the streams' last numbers. */
const kept = ({ site }, device) =>
  new Map(
    [...durable(site.path(`state-${device}/journal`))].map(([stream, numbers]) => [stream, numbers.at(-1)]),
  );

async function drained({ telemetry }, device, promised) {
  const lacks = ([stream, last]) =>
    !telemetry.of(device).some((record) => record.stream === stream && record.seq >= last);
  const done = () => {
    const missing = [...promised].filter(lacks);
    if (missing.length === 0) return true;
    throw new Error(`${missing} are missing`);
  };
  await until(`Kafka holds what ${device} had on flash`, done, 60_000);
}

/** Settings by command, of both kinds. */
async function configure(place, device) {
  const file = place.site.path(`agent-${device}.toml`);
  const text = readFileSync(file, "utf8").replace("readings = 80", "readings = 64");
  const sent = place.site.write(`sent-${device}.toml`, text);
  for (const words of [
    ["config", "apply", "--file", sent],
    ["set", "batch.age", "150ms"],
  ]) {
    const { code, stdout, stderr } = await ask(place.relay, ["command", device, ...words]);
    assert.equal(code, 0, `${words}: ${stdout}${stderr}`);
  }
}

/** What the agent says of its settings. */
async function settings(place, device) {
  const said = async (...words) => (await ask(place.relay, ["command", device, ...words])).stdout;
  const { settings } = JSON.parse(JSON.parse(await said("status", "--json")).output);
  return { text: await said("config", "get"), settings };
}

scenario(
  "each version takes the other's place, by updates and by packages, and goes on with what it has left",
  async (site) => {
    const { program: built, why } = await older();
    if (why) return console.log(`NOT TESTED HERE: two versions of different source: ${why}`);
    const place = await stage(site);
    const { relay, releases, telemetry, target, mosquitto, agent: newer } = place;
    const old = strip(built, site.path("older-agent"));
    const [OLD, NEW] = [versionOf(old), versionOf(newer)];
    assert.notEqual(OLD, NEW);
    // By their packages; and what else their settings have.
    const link = new Map();
    for (const device of ["lost", "stray"]) link.set(device, await Link.start(site, mosquitto.url));
    const away = (device) => ({
      uplink: { broker: link.get(device).url },
      update: { rate: "2 MiB", confirm_within: "10s" },
    });
    const slow = { update: { rate: "512 KiB" } };
    const services = new Map();
    for (const [device, program, more] of [
      ["up", old],
      ["down", newer],
      ["lost", old, away("lost")],
      ["stray", newer, away("stray")],
      ["half", old, slow],
      ["rest", newer, slow],
    ]) {
      services.set(device, startAgent(place, device, { program, ...more }));
    }
    await online(relay, services.size);
    for (const device of services.keys()) await telemetry.untilCount(device, 1);
    for (const device of ["up", "down"]) await configure(place, device);

    const copied = (program, name) => {
      copyFileSync(program, join(releases.folder, name));
      return join(releases.folder, name);
    };
    const toNew = releases.make(NEW, target, copied(newer, "newer"));
    // Older programs do not carry their target: `release manifest` refuses them.
    const toOld = releases.claim(OLD, target, copied(old, "older"));
    const send = async (device, release, { code = 0, says }, ...args) => {
      const done = await fleet(relay, release, "--device", device, ...args);
      assert.equal(done.code, code, done.stdout + done.stderr);
      assert.match(done.stdout, says, done.stdout + done.stderr);
    };
    const updated = { says: /updated/ };

    const state = (device) => readFileSync(site.path(`state-${device}/slots/state`), "utf8");

    /** The new program finds no way to the relay. */
    const without = async (device, release, ...args) => {
      const going = send(
        device,
        release,
        { code: 3, says: /rolled back: .* did not reach the relay within 10s/ },
        ...args,
      );
      await until(`${device} takes it`, () => /^next /m.test(state(device)), 60_000);
      link.get(device).setCut(true);
      await until(`${device} is rolled back`, () => /^failed .* rolled back: /m.test(state(device)), 120_000);
      link.get(device).setCut(false);
      await going;
    };

    /** The other program takes this one's place while a release is half here, and fetches the rest. */
    const halfWay = async (device, other) => {
      const latest = releases.make(
        LATEST,
        target,
        strip(join(binaries, "examples/next"), join(releases.folder, `next-${device}`)),
      );
      const going = fleet(relay, latest, "--device", device);
      const here = () => Number(/^have (\d+)$/m.exec(state(device))?.[1]);
      await until(`half of it is at ${device}`, () => here() > 1_000_000, 60_000);
      await services.get(device).stop();
      const have = here();
      services.set(device, startAgent(place, device, { program: other }));
      const { code, stdout, stderr } = await going;
      assert.equal(code, 0, stdout + stderr);
      const from = releases.requests
        .filter(({ path }) => path.endsWith(`next-${device}`))
        .map((request) => request.from);
      assert.deepEqual(from, [0, have], device);
      await runs(relay, device, LATEST);
    };

    const before = new Map();
    for (const device of ["up", "down"]) before.set(device, await settings(place, device));
    await Promise.all([
      send("up", toNew, updated),
      send("down", toOld, updated, "--force"),
      without("lost", toNew),
      without("stray", toOld, "--force"),
      halfWay("half", newer),
      halfWay("rest", old),
    ]);
    const runsNow = { up: NEW, down: OLD, lost: OLD, stray: NEW };
    for (const [device, version] of Object.entries(runsNow)) await runs(relay, device, version);
    for (const device of ["up", "down"]) {
      assert.match(image(services.get(device)), /slots\/a$/);
      assert.deepEqual(await settings(place, device), before.get(device));
    }
    for (const device of ["lost", "stray"])
      assert.equal(existsSync(site.path(`state-${device}/slots/a`)), false);
    // The one that came back knows how the other has ended, and does not try again.
    await send("lost", toNew, { code: 3, says: /failed before/ });

    // And back, over what the other has left in its slot.
    await Promise.all([send("up", toOld, updated, "--force"), send("down", toNew, updated)]);
    await Promise.all([runs(relay, "up", OLD), runs(relay, "down", NEW)]);
    for (const device of ["up", "down"]) {
      assert.match(image(services.get(device)), /slots\/b$/);
      assert.deepEqual(await settings(place, device), before.get(device));
    }

    // A package is exchanged while the journal holds what could not be sent.
    const exchanged = { lost: newer, stray: old };
    await mosquitto.kill();
    const promised = new Map();
    for (const [device, other] of Object.entries(exchanged)) {
      const service = services.get(device);
      const known = kept(place, device);
      await service.program.kill("SIGKILL");
      const backlog = () =>
        [...kept(place, device)].some(([stream, last]) => !known.has(stream) && last >= 20);
      await until(`${device} has a backlog`, backlog, 60_000);
      await service.stop();
      promised.set(device, kept(place, device));
      services.set(device, startAgent(place, device, { program: other, ...away(device) }));
    }
    await mosquitto.start();
    for (const device of Object.keys(exchanged)) await drained(place, device, promised.get(device));
    await Promise.all([runs(relay, "lost", NEW), runs(relay, "stray", OLD)]);
    for (const device of services.keys()) {
      await telemetry.untilCount(device, telemetry.count(device) + 1);
      check(telemetry, device, { streams: 2 });
    }
  },
  { limit: 900_000 },
);
