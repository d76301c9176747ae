/**
 * What takes too long, or needs root, for every change. Run by hand, with what `cargo build` left in target/debug:
 *
 *   node tests/e2e/heavy.mjs
 *   node --test --test-name-pattern='three nodes' tests/e2e/heavy.mjs
 */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { startAgent } from "./harness/agent.js";
import { Cluster } from "./harness/cluster.js";
import { Device } from "./harness/device.js";
import { Kafka } from "./harness/kafka.js";
import { Mosquitto } from "./harness/mosquitto.js";
import { Relay } from "./harness/relay.js";
import { repository, scenario } from "./harness/site.js";
import { Telemetry } from "./harness/telemetry.js";
import { createTopics, states, topics } from "./harness/topics.js";
import { Trace } from "./harness/trace.js";
import { until } from "./harness/until.js";

const DEVICES = ["east", "west", "north", "south", "hill", "dale", "moor", "fen"];
const sensors = Trace.read(join(repository, "bench/data/sensors-1hz.csv"));

async function checkAll(telemetry) {
  for (const device of DEVICES) {
    await telemetry.untilCount(device, sensors.count, 180_000);
    telemetry.checkEquals(device, sensors);
  }
}

// Each in turn, so that whatever leads partitions, coordinates the group and coordinates the transactions is among them.
scenario(
  "of three nodes of Kafka one after the other killed with -9: all goes on, nothing lost, nothing repeated",
  async (site) => {
    const [kafka, mosquitto] = await Promise.all([Cluster.start(site), Mosquitto.start(site)]);
    const settings = { kafka: { partitions: 8, replication: 3 } };
    const relay = await Relay.start(site, { kafka, mosquitto, settings, part: "bridge" });
    const telemetry = new Telemetry(site, kafka);
    for (const device of DEVICES) startAgent(site, { device, mosquitto, trace: sensors, speed: 60 });
    await until("every device is in Kafka", () => DEVICES.every((device) => telemetry.of(device).length > 3));
    for (const node of kafka.nodes) {
      const before = new Map(DEVICES.map((device) => [device, telemetry.of(device).length]));
      const begun = performance.now();
      await node.kill();
      const goesOn = (device) => telemetry.of(device).length > before.get(device) + 5;
      await until("every device goes on", () => DEVICES.every(goesOn), 120_000);
      console.log(
        `node ${node.number} killed: every device went on after ${Math.round(performance.now() - begun)} ms`,
      );
      await node.start();
      await until("all copies are in sync", () => topics(kafka, "replicas") === "3", 120_000);
    }
    await checkAll(telemetry);
    const lost = telemetry.records.filter((record) => record.loss).length;
    const recoveries = await relay.metric("headwater_bridge_recoveries_total");
    console.log(
      `${telemetry.records.length} batches, ${lost} loss records, ${recoveries} transactions begun anew`,
    );
    assert.equal(lost, 0);
  },
  { limit: 600_000 },
);

scenario(
  "topics that are deleted while the bridge runs are named, and it goes on when they are there again",
  async (site) => {
    const [kafka, mosquitto] = await Promise.all([Kafka.start(site), Mosquitto.start(site)]);
    createTopics(kafka);
    const settings = { kafka: { create_topics: false } };
    const relay = await Relay.start(site, { kafka, mosquitto, settings, part: "bridge" });
    const stream = 5n;
    const device = await Device.connect(site, mosquitto, "patient");
    await device.introduce([{ stream, short: 1, firstSeq: 1n, lastSeq: 9n, ackedSeq: 0n }]);
    const send = (seq) => device.data(device.frame(1, seq, [seq]));
    const acknowledged = (seq) =>
      until(
        `batch ${seq} is acknowledged`,
        async () => {
          await send(seq);
          return device.position(stream) >= BigInt(seq);
        },
        90_000,
      );
    await acknowledged(1);
    let next = 2;
    for (const name of ["telemetry", "devices", "commands"]) {
      topics(kafka, "delete", `headwater.${name}`);
      const begun = performance.now();
      await send(next);
      await relay.says(`headwater.${name} does not exist`, 90_000);
      console.log(`${name}: named after ${Math.round(performance.now() - begun)} ms`);
      topics(kafka, "create", `headwater.${name}`, 2);
      await acknowledged(next++);
      console.log(`${name}: goes on after ${Math.round(performance.now() - begun)} ms`);
    }
    const held = new Telemetry(site, kafka);
    await held.untilCount("patient", 3);
    assert.deepEqual(
      held.of("patient").map((record) => record.seq),
      [2, 3, 4],
      "what was deleted is gone, no more",
    );
    const position = () => states(kafka).get("patient")?.positions["0000000000000005"];
    await until("the new topic has the device's state", () => position() === 4);
  },
  { limit: 600_000 },
);

scenario(
  "Kafka's disk is full, and has room again: nothing lost, nothing repeated (needs root)",
  async (site) => {
    const disk = site.path("disk");
    mkdirSync(disk);
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=64m", "tmpfs", disk]);
    site.onClose(() => execFileSync("umount", ["-l", disk]));
    const kafka = new Kafka(join(disk, "kafka"), false);
    site.onClose(() => kafka.stop());
    await kafka.start();
    const mosquitto = await Mosquitto.start(site);
    const relay = await Relay.start(site, {
      kafka,
      mosquitto,
      settings: { kafka: { partitions: 2 } },
      part: "bridge",
    });
    const telemetry = new Telemetry(site, kafka);
    for (const device of DEVICES) startAgent(site, { device, mosquitto, trace: sensors, speed: 100 });
    await until("every device is in Kafka", () => DEVICES.every((device) => telemetry.of(device).length > 3));
    // Whatever is left of it.
    const ballast = join(disk, "ballast");
    assert.throws(() => writeFileSync(ballast, Buffer.alloc(64 << 20)), /ENOSPC/);
    // A Kafka with one disk ends when it cannot write to it; whoever runs it makes room and starts it again.
    await relay.program.ready(
      "the relay says that it is not ready",
      async () => !(await fetch(`${relay.admin}/readyz`)).ok,
      120_000,
    );
    assert.equal(await relay.metric("headwater_bridge_mqtt_connects_total"), 1);
    rmSync(ballast);
    await kafka.stop();
    await kafka.start();
    await checkAll(telemetry);
    console.log(`${telemetry.records.length} batches in Kafka`);
  },
  { limit: 600_000 },
);
