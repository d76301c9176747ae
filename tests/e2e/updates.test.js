/**
 * Updates over the air with two real programs, the agent and `next` (the same as of version 9.0.0), through Kafka, bridge and Mosquitto: sent by
 * `headwater-relay fleet update`, downloaded from a server that dies, killed at each step, rolled back where they do not reach the relay. What Kafka
 * holds is looked at from the first stream to the last: nothing is missing, nothing comes twice.
 *
 * Killed (SIGKILL, right before the sync; cut.c) is an agent at each of the steps that `agent/src/update/rack.rs` makes durable:
 *
 *   1 1-2  begun: the state's new file, the folder's names          2 1-2    whole: its right to be run, the names
 *   1 3-4  the first piece: the program's file, the names           2 3-4    on trial: the state, the names
 *   1 5-6  the state that knows of it, the names                    2 5-6    its first start is counted: the state, the names
 *   1 7    the second piece                                         2 7-8    it holds: the state, the names
 *   1 8-9  the state that knows of it, the names
 *                                                                   2 11-12  it crashed three times, and is gone: the state, the names
 *                                                                   2 13     its file is removed: the names
 *
 * That what was written and not synced may be lost or torn besides is for `agent/src/update/model.rs` and power-updates.test.js.
 */

import assert from "node:assert/strict";
import { execFile, execFileSync } from "node:child_process";
import { appendFileSync, copyFileSync, existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { blocks } from "./harness/pages.js";
import { binaries, repository, scenario } from "./harness/site.js";
import { until } from "./harness/until.js";
import {
  ask,
  check,
  fleet,
  image,
  known,
  online,
  runs,
  stage,
  startAgent,
  strip,
  versionOf,
  writeSettings,
} from "./harness/updates.js";

const run = promisify(execFile);
const OLD = versionOf(join(binaries, "headwater-agent"));
const NEW = "9.0.0";

/** With the program that is to be installed. */
async function stageWithNext(site) {
  const place = await stage(site);
  const next = strip(join(binaries, "examples/next"), join(place.releases.folder, "headwater-agent-next"));
  return { ...place, next };
}

function assertKilled(site, device, cut) {
  const counted = readFileSync(site.path(device), "utf8");
  assert.ok(counted.startsWith("0 "), `${device} was killed at ${cut}: ${counted}`);
}

/** Compiled, what ends an agent at one of its steps: its environment. */
function cutter(site) {
  const preload = site.path("cut.so");
  execFileSync("cc", ["-shared", "-fPIC", "-o", preload, join(repository, "tests/e2e/harness/cut.c")]);
  return (device, cut) => ({ LD_PRELOAD: preload, CUT: cut, CUT_COUNT: site.path(device) });
}

/** The commands of docs/updating.md, as they stand there: those that make a release, and those that send it, as far as saying who is meant. */
async function followPage(site, relay, release) {
  const programs = { aarch64: "aarch64-unknown-linux-musl", armv6: "arm-unknown-linux-musleabihf" };
  for (const [short, triple] of Object.entries(programs)) {
    site.write(`headwater-agent-0.2.0-${short}`, `\x7fELF\nheadwater-agent 0.2.0 ${triple}\n`);
  }
  copyFileSync(relay.config, site.path("relay.toml"));
  const env = { ...process.env, PATH: `${binaries}:${process.env.PATH}` };
  const parts = blocks("docs/updating.md").filter(({ words }) => words[0] === "updates");
  assert.equal(parts.length, 3);
  for (const { body } of parts) {
    const sends = body.includes("fleet update");
    const text = sends
      ? body.replaceAll(" --dry-run", "").replaceAll(/(?<=agent\/0\.2\.0.*)$/gm, " --dry-run")
      : body;
    const { stdout } = await run("sh", ["-e", "-c", text], { cwd: site.directory, env });
    if (sends) assert.equal(stdout.match(/of 18 agents are meant/g).length, 4, stdout);
  }
  const made = JSON.parse(readFileSync(site.path("manifest.json"), "utf8"));
  assert.equal(Object.keys(made.files).length, 2);
  // The page's key is another one than the agents know.
  assert.notEqual(
    readFileSync(`${release.manifest}.minisig`, "utf8"),
    readFileSync(site.path("manifest.json.minisig"), "utf8"),
  );
}

scenario(
  "an update under traffic, in stages, killed at each of its steps",
  async (site) => {
    const place = await stageWithNext(site);
    const { relay, releases, telemetry, next, target } = place;
    const cutAt = cutter(site);
    const cuts = [...Array(9).keys()].map((at) => `1 ${at + 1}`);
    cuts.push(...[...Array(8).keys()].map((at) => `2 ${at + 1}`));
    const services = new Map([["plain", startAgent(place, "plain")]]);
    cuts.forEach((cut, at) => {
      const device = `cut-${at}`;
      services.set(device, startAgent(place, device, { env: cutAt(device, cut) }));
    });
    await online(relay, services.size);
    for (const device of services.keys()) await telemetry.untilCount(device, 1);

    const release = releases.make(NEW, target, next);
    const of = (version) => [...services.keys()].map((device) => [device, version(device)]);
    await known(
      relay,
      release,
      of(() => OLD),
    );
    await followPage(site, relay, release);
    // Nobody is sent anything.
    const nobody = await fleet(relay, release, "--percent", "0");
    assert.equal(nobody.code, 0, nobody.stdout + nobody.stderr);
    assert.match(nobody.stdout, /0 of 18 agents are meant/);
    const typo = await fleet(relay, release, "--device", "plein");
    assert.equal(typo.code, 2, typo.stdout);
    assert.match(typo.stderr, /--device plein: none of the 18 agents has such a name/);
    const some = await fleet(relay, release, "--percent", "30", "--dry-run");
    const meant = some.stdout
      .split("\n")
      .filter((line) => line.includes(`${OLD} on line`))
      .map((line) => line.split(" ")[0]);
    assert.ok(meant.length > 0 && meant.length < services.size, some.stdout);

    // The first stage. Some downloads break off in the middle, and are gone on with.
    releases.breaks = { after: 1_000_000, times: 3 };
    const first = await fleet(relay, release, "--percent", "30");
    assert.equal(first.code, 0, first.stdout + first.stderr);
    await known(
      relay,
      release,
      of((device) => (meant.includes(device) ? NEW : OLD)),
    );
    assert.ok(
      releases.requests.some(({ from }) => from >= 131_072),
      "a download was gone on with",
    );
    const rest = await fleet(relay, release);
    assert.equal(rest.code, 0, rest.stdout + rest.stderr);
    assert.match(
      rest.stdout,
      new RegExp(`18 of 18 agents are meant, ${meant.length} of them run it already`),
    );
    await known(
      relay,
      release,
      of(() => NEW),
    );
    for (const [device, service] of services) {
      assert.match(image(service), /\/slots\/a$/, device);
      const cut = /^cut-(\d+)$/.exec(device);
      if (cut) assertKilled(site, device, cuts[cut[1]]);
      assert.equal(
        service.starts.length,
        cut ? 2 : 1,
        `${device}: who was not killed became the new one without a service manager`,
      );
    }
    // Each went on with its data.
    for (const device of services.keys()) {
      const before = telemetry.count(device);
      await telemetry.untilCount(device, before + 1);
    }
    for (const device of services.keys()) check(telemetry, device, { streams: 2 });

    // What came of it is what the command's id is answered with, and a second time changes nothing.
    const again = await fleet(relay, release, "--force", "--device", "plain");
    assert.equal(again.code, 0, again.stdout + again.stderr);
    const update = JSON.parse((await ask(relay, ["command", "plain", "update"])).stdout);
    assert.deepEqual(
      [update.state, update.running, update.slot, update.what],
      ["updated", NEW, "a", `updated from ${OLD} to ${NEW}`],
    );

    // A flipped bit in the slot: the packaged program runs.
    const plain = services.get("plain");
    const slot = site.path("state-plain/slots/a");
    await plain.program.kill("SIGKILL");
    const content = readFileSync(slot);
    content[content.length >> 1] ^= 1;
    writeFileSync(slot, content);
    await runs(relay, "plain", OLD);
  },
  { limit: 600_000 },
);

/**
 * The month's data budget has nothing to spare for a release: the download waits while live data goes on, and whoever sends it hears of it as overdue,
 * and goes no further. With a larger budget it goes on where it was.
 */
async function waits(place, service) {
  const { relay, releases, telemetry, next, target } = place;
  const release = releases.make(NEW, target, next);
  const both = ["--device", "budget", "--device", "careful", "--at-once", "1", "--within", "20s"];
  const { code, stdout, stderr } = await fleet(relay, release, ...both);
  assert.equal(code, 3, stdout + stderr);
  assert.match(stdout, /^budget +overdue: .* the month's data budget has nothing to spare$/m);
  assert.match(stdout, /^careful +not sent$/m);
  assert.match(stdout, /more than 0 have failed/);
  const told = async () => JSON.parse((await ask(relay, ["command", "budget", "update"])).stdout);
  const { have, size } = await told();
  assert.ok(have > 0 && have < size / 2, `${have} of ${size} bytes are there`);
  await telemetry.untilCount("budget", telemetry.count("budget") + 1);
  assert.equal((await told()).have, have, "nothing more is fetched");
  writeSettings(place, "budget", { uplink: { data_budget: { bytes: "2 GiB", thin_max: 1 } } });
  service.program.child.kill("SIGHUP");
  const rest = await fleet(relay, release, "--device", "budget");
  assert.equal(rest.code, 0, rest.stdout + rest.stderr);
  const from = releases.requests.filter(({ path }) => path.endsWith("-next")).map((request) => request.from);
  assert.ok(from[0] === 0 && from.slice(1).every((at) => at > 0), `asked for from ${from}`);
}

scenario(
  "what is bad goes back by itself, and says why; what is not signed is not even begun",
  async (site) => {
    const place = await stageWithNext(site);
    const { relay, releases, telemetry, agent, next, target } = place;
    const bad = new Map([
      ["crashes", ["kill -SEGV $$", /ended by itself 3 times/, {}]],
      ["hangs", ["exec sleep 1000", /hung/, { confirm_within: "1s" }]],
      [
        "lost",
        [
          `HEADWATER_AGENT_UPLINK__BROKER=mqtt://127.0.0.1:1 exec ${next} "$@"`,
          /did not reach the relay within 3s: .*refused/,
          { confirm_within: "3s" },
        ],
      ],
      [
        "strict",
        [`HEADWATER_AGENT_UPLINK__KEEP_ALIVE=0s exec ${next} "$@"`, /could not go on: .*keep_alive/, {}],
      ],
    ]);
    const cutAt = cutter(site);
    const cuts = new Map(["2 11", "2 12", "2 13"].map((cut, at) => [`crashes-${at}`, cut]));
    for (const device of cuts.keys()) bad.set(device, bad.get("crashes"));
    const services = new Map();
    for (const [device, [, , update]] of bad) {
      // What `next` says that it is, where no script says otherwise.
      const env = cuts.has(device) ? cutAt(device, cuts.get(device)) : { NEXT_VERSION: "0.0.2" };
      services.set(device, startAgent(place, device, { update, env }));
    }
    services.set("careful", startAgent(place, "careful"));
    // A 50th of its data budget is less than a release.
    const thrifty = { update: { rate: "1 MiB" }, uplink: { data_budget: { bytes: "20 MiB", thin_max: 1 } } };
    services.set("budget", startAgent(place, "budget", thrifty));
    await online(relay, services.size);
    await known(
      relay,
      releases.claim("9.0.1", target, next),
      [...services.keys()].map((device) => [device, OLD]),
    );

    const goes = [...bad].map(async ([device, [text, why]], at) => {
      const version = `9.1.${at}`;
      const script = releases.script(`${device}-program`, `export NEXT_VERSION=${version}\n${text}`);
      const release = releases.claim(version, target, script);
      const going = fleet(relay, release, "--device", device);
      if (device === "lost") {
        // A script's environment, and its name for itself, go on to the program that comes back: a service has its own again.
        const service = services.get(device);
        const slot = site.path(`state-${device}/slots/a`);
        await until(
          `${device} is rolled back`,
          () => service.program.log().includes("rolled back: ") && !existsSync(slot),
          120_000,
        );
        await service.program.kill("SIGKILL");
      }
      const { code, stdout, stderr } = await going;
      assert.equal(code, 3, stdout + stderr);
      assert.match(stdout, why, `${device}\n${stdout}${stderr}`);
      assert.match(stdout, /failed: rolled back/, stdout);
      await runs(relay, device, OLD);
      if (cuts.has(device)) assertKilled(site, device, cuts.get(device));
      // It is not tried again unless somebody says so.
      const twice = await fleet(relay, release, "--device", device);
      assert.match(twice.stdout, /failed before: this program has failed here already/, twice.stdout);
      assert.equal(existsSync(site.path(`state-${device}/slots/a`)), false, "nothing is left of it");
    });
    goes.push(waits(place, services.get("budget")));
    await Promise.all(goes);

    const careful = async (release, expected, ...args) => {
      const { code, stdout, stderr } = await fleet(relay, release, "--device", "careful", ...args);
      assert.equal(code, 3, stdout + stderr);
      assert.match(stdout, expected, stdout + stderr);
      await runs(relay, "careful", OLD);
    };
    const other = site.path("other.pem");
    execFileSync("openssl", ["genpkey", "-algorithm", "ed25519", "-out", other]);
    await careful(releases.claim("9.2.0", target, next, { key: other }), /which is not in update.keys/);
    const altered = releases.claim("9.2.1", target, next);
    writeFileSync(altered.manifest, readFileSync(altered.manifest, "utf8").replace("9.2.1", "9.2.2"));
    await careful({ ...altered, version: "9.2.2" }, /does not fit its signature/);
    const unsigned = releases.claim("9.2.3", target, next);
    writeFileSync(`${unsigned.manifest}.minisig`, "");
    await careful(unsigned, /has no signature/, "--force");
    await careful(releases.claim("0.0.1", target, next), /is not newer/);
    await careful(
      releases.claim("9.2.4", "mips-unknown-none", next),
      /left out: the release has nothing for/,
    );
    // Signed, and another one on the server.
    const copy = join(releases.folder, "swapped");
    copyFileSync(next, copy);
    const swapped = releases.claim("9.2.5", target, copy);
    const content = readFileSync(copy);
    content[1000] ^= 1;
    writeFileSync(copy, content);
    await careful(swapped, /is not what was signed/);
    // What did not arrive says nothing of the program: it may be sent again.
    appendFileSync(copy, "x");
    await careful(swapped, /failed: not installed: the server's file has/);
    // Nor does it come in time from where nobody is.
    const nowhere = { ...releases.claim("9.2.6", target, next), url: "http://127.0.0.1:1/" };
    await careful(nowhere, /overdue|no answer/, "--within", "3s");
    const state = site.path("state-careful/slots");
    assert.deepEqual(readdirSync(state), ["state"]);

    // Forced back to an older one, and it stays there although the package is newer.
    const lost = services.get("lost");
    const older = releases.claim("0.0.2", target, next);
    const { stdout } = await ask(relay, ["command", "lost", "update", "--json"]);
    assert.match(stdout, /failed/);
    const back = await fleet(relay, older, "--device", "lost", "--force");
    assert.match(back.stdout, /updated|knows nothing/, back.stdout + back.stderr);
    await until("the forced one runs", async () => /slots/.test(image(lost)), 60_000);
    await runs(relay, "lost", "0.0.2");
    assert.ok(existsSync(agent));
    for (const device of services.keys()) check(telemetry, device, { streams: 1 });
  },
  { limit: 600_000 },
);
