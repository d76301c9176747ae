/** The number of partitions: what is refused at the start, and how it is raised without a batch lost or repeated. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { startAgent } from "./harness/agent.js";
import { Kafka } from "./harness/kafka.js";
import { Mosquitto } from "./harness/mosquitto.js";
import { Relay } from "./harness/relay.js";
import { python, repository, scenario } from "./harness/site.js";
import { Telemetry } from "./harness/telemetry.js";
import { Trace } from "./harness/trace.js";
import { until } from "./harness/until.js";

const sensors = Trace.read(join(repository, "bench/data/sensors-1hz.csv"));
const DEVICES = ["east", "west", "north", "south", "hill", "dale", "moor", "fen"];
const SHARDED = ["telemetry", "devices", "commands"].map((name) => `headwater.${name}`);

/** Raises the number of partitions of these topics, as kafka-topics.sh --alter does. */
function grow(kafka, topics, count) {
  execFileSync(python, [
    join(repository, "tests/e2e/python/partitions.py"),
    kafka.bootstrap,
    String(count),
    ...topics,
  ]);
}

scenario("partitions are doubled while no bridge runs: nothing lost, nothing repeated", async (site) => {
  const [kafka, mosquitto] = await Promise.all([Kafka.start(site), Mosquitto.start(site)]);
  const relay = await Relay.start(site, { kafka, mosquitto, part: "bridge" });
  let telemetry = new Telemetry(site, kafka);
  for (const device of DEVICES) startAgent(site, { device, mosquitto, trace: sensors, speed: 200 });
  for (const device of DEVICES) await telemetry.untilCount(device, sensors.count * 0.3);
  // Killed, not stopped: what was delivered is not all acknowledged, nor in a state.
  await relay.program.kill("SIGKILL");

  grow(kafka, ["headwater.telemetry"], 8);
  relay.launch();
  await until("the bridge ends", () => relay.program.exited);
  assert.equal(relay.program.exited.code, 1);
  assert.match(relay.program.log(), /headwater\.devices: has 4 partitions but headwater\.telemetry has 8/);

  grow(kafka, SHARDED.slice(1), 8);
  await relay.start();
  telemetry = new Telemetry(site, kafka);
  let moved = 0;
  for (const device of DEVICES) {
    await telemetry.untilCount(device, sensors.count);
    const records = telemetry.of(device);
    moved += new Set(records.map((record) => record.partition)).size > 1;
    const numbers = records.map((record) => record.seq).sort((a, b) => a - b);
    assert.deepEqual(
      numbers,
      numbers.map((_, at) => at + 1),
      `${device}: each number once`,
    );
    assert.equal(telemetry.count(device), sensors.count);
  }
  assert.ok(moved > 0, "some device is in another partition now");
});

scenario("a number of partitions that does not fit is refused in words", async (site) => {
  const [kafka, mosquitto] = await Promise.all([Kafka.start(site), Mosquitto.start(site)]);
  const relay = await Relay.start(site, { kafka, mosquitto, part: "bridge" });
  await relay.program.kill("SIGTERM");
  grow(kafka, SHARDED, 6);
  relay.launch();
  await until("the bridge ends", () => relay.program.exited);
  assert.equal(relay.program.exited.code, 1);
  assert.match(relay.program.log(), /has 6 partitions; it must be a power of two up to 256/);
});
