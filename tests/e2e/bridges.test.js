/**
 * Several bridges on one Kafka: they share the partitions; one comes, one is killed, one is paused for longer than the group waits, one is
 * stopped. Whatever moves, each device's readings stand in Kafka once, whole and in order, as a consumer with `read_committed` sees it.
 *
 * How long partitions had no owner is printed, and measured from outside: from the kill until the others own all partitions, and until Kafka
 * holds something new of every device.
 */

import assert from "node:assert/strict";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { startAgent } from "./harness/agent.js";
import { Kafka } from "./harness/kafka.js";
import { Mosquitto } from "./harness/mosquitto.js";
import { Relay } from "./harness/relay.js";
import { repository, scenario } from "./harness/site.js";
import { Telemetry } from "./harness/telemetry.js";
import { Trace } from "./harness/trace.js";
import { until } from "./harness/until.js";

const PARTITIONS = 8;
const DEVICES = ["east", "west", "north", "south", "hill", "dale", "moor", "fen"];
const sensors = Trace.read(join(repository, "bench/data/sensors-1hz.csv"));
// The shortest that Kafka allows where nothing else is said.
const settings = { kafka: { partitions: PARTITIONS }, bridge: { session_timeout: "6s" } };

class Bridges {
  all = [];

  constructor(site, kafka, mosquitto) {
    Object.assign(this, { site, kafka, mosquitto });
  }

  async add() {
    const { site, kafka, mosquitto } = this;
    const bridge = await Relay.prepare(site, { kafka, mosquitto, settings, part: "bridge" });
    await bridge.start();
    this.all.push(bridge);
    return bridge;
  }

  /** Waits until these own all partitions, each of them at least `least`. */
  async share(bridges, least) {
    await until(
      `${bridges.length} bridges share ${PARTITIONS} partitions`,
      async () => {
        const owned = await Promise.all(
          bridges.map((bridge) => bridge.metric("headwater_bridge_partitions")),
        );
        const sum = owned.reduce((a, b) => a + b, 0);
        if (sum === PARTITIONS && owned.every((count) => count >= least)) return true;
        throw new Error(`they own ${owned}`);
      },
      60_000,
    );
  }
}

/** How long a pause lasts at least, milliseconds: as soon as another has its partitions, or as many seconds as are asked for. */
const PAUSE = Number(process.env.HEADWATER_PAUSE ?? 0) * 1000;

/** Load on `count` bridges, something happening to them, and then the reckoning. */
async function underLoad(site, count, speed, disturb) {
  const [kafka, mosquitto] = await Promise.all([Kafka.start(site), Mosquitto.start(site)]);
  const bridges = new Bridges(site, kafka, mosquitto);
  // One after the other: the first creates the topics.
  while (bridges.all.length < count) await bridges.add();
  await bridges.share(bridges.all, Math.floor(PARTITIONS / count));
  const telemetry = new Telemetry(site, kafka);
  const plain = new Telemetry(site, kafka, { isolation: "read_uncommitted" });
  for (const device of DEVICES) startAgent(site, { device, mosquitto, trace: sensors, speed });
  await disturb({ kafka, bridges, telemetry });
  for (const device of DEVICES) {
    await telemetry.untilCount(device, sensors.count, 120_000 + 4 * PAUSE);
    telemetry.checkEquals(device, sensors);
    assert.equal(telemetry.checkChain(device).length, 1, "one start of the agent, one stream");
  }
  console.log(
    `${telemetry.records.length} batches, lost 0, repeated 0, out of order 0; a plain consumer sees ` +
      `${plain.records.length - telemetry.records.length} of aborted transactions beside them`,
  );
  return telemetry;
}

function reached(telemetry, share) {
  return telemetry.untilCount(DEVICES[0], Math.floor(sensors.count * share));
}

/** Waits until Kafka holds something new of every device; returns the milliseconds it took. */
async function allGoOn(telemetry, begun) {
  const before = new Map(DEVICES.map((device) => [device, telemetry.of(device).length]));
  await until(
    "something new of every device is in Kafka",
    () => DEVICES.every((device) => telemetry.of(device).length > before.get(device)),
    60_000,
  );
  return Math.round(performance.now() - begun);
}

scenario(
  "two bridges share the load; a third comes, one is killed with -9, one is stopped",
  (site) =>
    underLoad(site, 2, 60, async ({ bridges, telemetry }) => {
      const [first, second] = bridges.all;
      await reached(telemetry, 0.1);
      let begun = performance.now();
      const third = await bridges.add();
      await bridges.share([first, second, third], 2);
      console.log(`a third bridge has its share after ${Math.round(performance.now() - begun)} ms`);
      await allGoOn(telemetry, begun);

      begun = performance.now();
      await first.program.kill("SIGKILL");
      await bridges.share([second, third], 4);
      const owned = Math.round(performance.now() - begun);
      const flowing = await allGoOn(telemetry, begun);
      console.log(`killed: all partitions owned after ${owned} ms, every device goes on after ${flowing} ms`);

      begun = performance.now();
      assert.equal((await second.program.kill("SIGTERM")).code, 0);
      await bridges.share([third], PARTITIONS);
      console.log(`stopped: all partitions owned after ${Math.round(performance.now() - begun)} ms`);
      await allGoOn(telemetry, begun);
    }),
  { limit: 240_000 },
);

scenario(
  "a bridge is paused with requests in flight until another has its partitions, and then goes on",
  (site) =>
    underLoad(site, 2, PAUSE > 0 ? 15 : 60, async ({ kafka, bridges, telemetry }) => {
      const [first, second] = bridges.all;
      for (const share of [0.05, 0.3]) {
        await reached(telemetry, share);
        // What the bridge sends now stays in the socket, and is carried out when the bridge is already asleep.
        process.kill(kafka.pid, "SIGSTOP");
        await until(
          "the bridge has something in flight",
          async () => (await first.metric("headwater_bridge_in_flight_bytes")) > 0,
        );
        const begun = performance.now();
        first.program.child.kill("SIGSTOP");
        process.kill(kafka.pid, "SIGCONT");
        await bridges.share([second], PARTITIONS);
        const owned = Math.round(performance.now() - begun);
        const flowing = await allGoOn(telemetry, begun);
        console.log(
          `paused: all partitions owned after ${owned} ms, every device goes on after ${flowing} ms`,
        );
        await setTimeout(Math.max(0, PAUSE - (performance.now() - begun)));
        first.program.child.kill("SIGCONT");
        await bridges.share([first, second], 4);
        await allGoOn(telemetry, performance.now());
      }
    }),
  { limit: 240_000 + 4 * PAUSE },
);
