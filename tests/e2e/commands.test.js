/**
 * Commands through Kafka to real agents and their replies back: exactly one reply each, as who reads committed records sees them; what an agent
 * carries out leaves a line in a file, so that a repeat would show.
 */

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { Commands } from "./harness/commands.js";
import { notes, startExecAgent } from "./harness/execagent.js";
import { Kafka } from "./harness/kafka.js";
import { Mosquitto } from "./harness/mosquitto.js";
import { Relay } from "./harness/relay.js";
import { shard } from "./harness/shard.js";
import { binaries, scenario } from "./harness/site.js";
import { until } from "./harness/until.js";

const run = promisify(execFile);
const PARTITIONS = 4;

/** `headwater-relay command …`: its exit code and what it printed. */
async function ask(relay, ...args) {
  const program = join(binaries, "headwater-relay");
  try {
    const { stdout } = await run(program, ["command", "--config", relay.config, ...args]);
    return { code: 0, stdout };
  } catch (error) {
    return { code: error.code, stdout: error.stdout, stderr: error.stderr };
  }
}

scenario("commands are carried out in order, once, and each has one reply", async (site) => {
  const [kafka, mosquitto] = await Promise.all([Kafka.start(site), Mosquitto.start(site)]);
  const relay = await Relay.start(site, { kafka, mosquitto, part: "bridge" });
  const commands = await Commands.start(site, kafka);
  startExecAgent(site, mosquitto, "east");
  let west = startExecAgent(site, mosquitto, "west");
  await until(
    "both agents are on line",
    async () => (await relay.metric("headwater_bridge_devices_online")) === 2,
  );

  // An operator's way.
  const ping = await ask(relay, "east", "ping");
  assert.match(ping.stdout, /^east \d/);
  assert.equal(ping.code, 0);
  const status = await ask(relay, "west", "status", "--json");
  const reply = JSON.parse(status.stdout);
  assert.deepEqual([reply.device, reply.status], ["west", "ok"]);
  assert.equal(typeof JSON.parse(reply.output), "object");
  const set = await ask(relay, "west", "set", "batch.age", "3s");
  assert.equal(set.code, 0, set.stdout + set.stderr);
  const odd = await ask(relay, "west", "dance");
  assert.deepEqual([odd.code, odd.stdout.slice(0, 15)], [3, "unknown command"]);
  const stranger = await ask(relay, "nobody", "ping");
  assert.deepEqual([stranger.code, stranger.stdout.slice(0, 14)], [3, "unknown device"]);
  assert.equal((await ask(relay, "no/name", "ping")).code, 2);

  // A program's way: in the order of the log, one at a time for each device.
  const ids = [];
  for (let number = 0; number < 10; number++) {
    for (const device of ["east", "west"]) {
      ids.push(`${device}-${number}`);
      commands.send({
        device,
        id: ids.at(-1),
        name: "exec",
        arguments: [`note-${number}`],
        expires_in_ms: 60_000,
      });
    }
  }
  for (const { status, replied_us } of await commands.untilReplied(ids)) {
    assert.equal(status, "OK");
    assert.ok(replied_us > 0);
  }
  const inOrder = Array.from({ length: 10 }, (_, number) => String(number));
  assert.deepEqual(notes(site, "east"), inOrder);
  assert.deepEqual(notes(site, "west"), inOrder);

  // What is wrong harms nobody: it is told, or kept among the dead letters.
  const elsewhere = (shard("east") + 1) % PARTITIONS;
  commands.send({ device: "east", id: "astray", name: "ping", partition: elsewhere });
  commands.send({ device: "east", raw: "ffffff" });
  commands.send({ device: "east", id: "late", name: "exec", arguments: ["note-1"], expires_in_ms: -5000 });
  const [astray, late] = await commands.untilReplied(["astray", "late"]);
  assert.deepEqual([astray.status, late.status], ["REFUSED", "EXPIRED"]);
  assert.match(astray.output, /murmur2/);
  await until("the dead letter is there", () => commands.letters.length === 1);
  const [letter] = commands.letters;
  assert.deepEqual(
    [letter.key, letter.value, letter.headers["hw-topic"]],
    ["east", "ffffff", "headwater.commands"],
  );
  assert.match(letter.headers["hw-source"], /^\d+:\d+$/);

  // A device that is away: given up in time, or served when it comes back; nobody waits for it.
  await west.kill("SIGKILL");
  await until("it is away", async () => (await relay.metric("headwater_bridge_devices_online")) === 1);
  const away = { device: "west", name: "exec", arguments: ["note-7"] };
  commands.send({ ...away, id: "missed", expires_in_ms: 1000 });
  commands.send({ ...away, id: "served", expires_in_ms: 60_000 });
  commands.send({ device: "east", id: "beside", name: "ping", expires_in_ms: 60_000 });
  const [beside, missed] = await commands.untilReplied(["beside", "missed"]);
  assert.deepEqual([beside.status, missed.status], ["OK", "EXPIRED"]);
  assert.match(missed.output, /not on line/);
  assert.deepEqual(commands.of("served"), []);
  assert.equal(await relay.metric("headwater_bridge_commands_open"), 1);
  west = startExecAgent(site, mosquitto, "west");
  assert.equal((await commands.untilReplied(["served"]))[0].status, "OK");
  assert.deepEqual(notes(site, "west"), [...inOrder, "7"]);
  assert.deepEqual(notes(site, "east"), inOrder);

  // After a stop the next bridge repeats none of it.
  const before = commands.replies.length;
  await relay.program.kill("SIGTERM");
  await relay.start();
  assert.equal((await ask(relay, "west", "ping")).code, 0);
  await commands.untilReplied([...ids, "served"]);
  assert.equal(commands.replies.length, before + 1);
  for (const id of [...ids, "astray", "late", "beside", "missed", "served"]) {
    assert.equal(commands.of(id).length, 1, id);
  }
  assert.equal(await relay.metric("headwater_bridge_replies_total", { status: "ok" }), 1);
});

scenario(
  "a bridge is killed between sending commands and their replies; another finishes them",
  async (site) => {
    const [kafka, mosquitto] = await Promise.all([Kafka.start(site), Mosquitto.start(site)]);
    const settings = { bridge: { session_timeout: "6s" } };
    const options = { kafka, mosquitto, settings, part: "bridge" };
    const first = await Relay.start(site, options);
    const devices = ["east", "west", "north", "south", "hill", "dale"];
    for (const device of devices) startExecAgent(site, mosquitto, device);
    const commands = await Commands.start(site, kafka);
    await until(
      "the agents are on line",
      async () => (await first.metric("headwater_bridge_devices_online")) === devices.length,
    );
    // Answered before the kill: the one that takes over must not ask again.
    const quick = devices.map((device) => `${device}-quick`);
    const exec = (device, id, name) =>
      commands.send({ device, id, name: "exec", arguments: [name], expires_in_ms: 90_000 });
    for (const device of devices) exec(device, `${device}-quick`, "note-0");
    await commands.untilReplied(quick);
    const slow = [];
    for (const device of devices) {
      for (const number of [1, 2]) {
        slow.push(`${device}-${number}`);
        exec(device, slow.at(-1), number === 1 ? "slow-1" : "note-2");
      }
    }
    const sent = () => first.metric("headwater_bridge_commands_sent_total");
    await until("each device is carrying one out", async () => (await sent()) >= 2 * devices.length);
    assert.ok(slow.every((id) => commands.of(id).length === 0));
    await first.program.kill("SIGKILL");
    const second = await Relay.start(site, options);
    for (const reply of await commands.untilReplied(slow, 60_000))
      assert.equal(reply.status, "OK", reply.output);
    await until("nothing is open", async () => (await second.metric("headwater_bridge_commands_open")) === 0);
    for (const id of [...quick, ...slow]) assert.equal(commands.of(id).length, 1, id);
    for (const device of devices) assert.deepEqual(notes(site, device), ["0", "1", "2"]);
    assert.equal(await second.metric("headwater_bridge_replies_total", { status: "ok" }), slow.length);
  },
);
