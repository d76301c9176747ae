/**
 * The agent killed with -9 under load, again and again, on one journal with `sync_after = "0s"`: nothing that was durable is lost, and
 * nothing is repeated.
 *
 * What counts, exactly. Each start opens a stream and replays the trace from its beginning. After each kill the journal's files are read,
 * by code of the tests' own: what stands there whole was durable. At the end, for each stream: Kafka holds numbers 1, 2, 3, … without
 * hole and without repeat, to the last durable one at least; no loss record stands among them; and the readings are the trace's first
 * ones, in order and bit for bit. What a kill may take is the batch that was still open, and what was closed but not yet written:
 * neither was promised.
 *
 * HEADWATER_KILLS: how many kills (15).
 */

import assert from "node:assert/strict";
import { cpSync } from "node:fs";
import { join } from "node:path";
import { startAgent } from "./harness/agent.js";
import { durable } from "./harness/journal.js";
import { Kafka } from "./harness/kafka.js";
import { Mosquitto } from "./harness/mosquitto.js";
import { Relay } from "./harness/relay.js";
import { repository, scenario } from "./harness/site.js";
import { Telemetry } from "./harness/telemetry.js";
import { Trace } from "./harness/trace.js";
import { until } from "./harness/until.js";

const DEVICE = "pole";
const KILLS = Number(process.env.HEADWATER_KILLS ?? 15);
const sensors = Trace.read(join(repository, "bench/data/sensors-1hz.csv"));

function start(site, mosquitto, { name = "pole", state = "state", ...options } = {}) {
  const settings = { state_dir: site.path(state), journal: { sync_after: "0s" } };
  return startAgent(site, {
    device: DEVICE,
    name,
    mosquitto,
    trace: sensors,
    speed: 200,
    settings,
    ...options,
  });
}

/** Records that Kafka holds, by stream: how many, and the last number. */
function held(telemetry) {
  const streams = new Map();
  for (const { stream, seq } of telemetry.of(DEVICE)) {
    const { count = 0, last = 0 } = streams.get(stream) ?? {};
    streams.set(stream, { count: count + 1, last: Math.max(last, seq) });
  }
  return streams;
}

/** Every stream is whole up to what was durable of it, with the trace's first readings; returns what was seen. */
function check(telemetry, promised) {
  const streams = telemetry.checkChain(DEVICE);
  const readings = new Map(streams.map((stream) => [stream, {}]));
  let count = 0;
  for (const record of telemetry.of(DEVICE)) {
    assert.equal(record.loss, undefined, `a loss record in stream ${record.stream}`);
    const columns = readings.get(record.stream);
    for (const [metric, column] of Object.entries(record.columns)) {
      // Now and then the agent tells of itself.
      if (metric.startsWith("agent.")) continue;
      columns[metric] ??= [];
      columns[metric].push(...column.readings);
      count += column.readings.length;
    }
  }
  for (const [stream, columns] of readings) {
    for (const [metric, found] of Object.entries(columns)) {
      const expected = sensors.readings[metric].slice(0, found.length);
      assert.equal(String(found), String(expected), `${metric} of stream ${stream}`);
    }
  }
  const kafka = held(telemetry);
  for (const [stream, last] of promised) {
    assert.ok((kafka.get(stream)?.last ?? 0) >= last, `stream ${stream} was durable up to ${last}`);
  }
  return { streams: streams.length, batches: telemetry.of(DEVICE).length, readings: count };
}

/** Waits until Kafka has all that was durable. */
function drained(telemetry, promised, limit) {
  const missing = () => {
    const kafka = held(telemetry);
    return [...promised].filter(([stream, last]) => (kafka.get(stream)?.last ?? 0) < last);
  };
  return until(
    "Kafka holds all that was durable",
    () => {
      const left = missing();
      if (left.length === 0) return true;
      throw new Error(`${left.length} streams lack something, first ${left[0]}`);
    },
    limit,
  );
}

scenario(
  `the agent killed with -9 ${KILLS} times under load`,
  async (site) => {
    const [kafka, mosquitto] = await Promise.all([Kafka.start(site), Mosquitto.start(site)]);
    const relay = await Relay.start(site, { kafka, mosquitto });
    const telemetry = new Telemetry(site, kafka);
    const journal = site.path("state/journal");
    const promised = new Map();
    let unacknowledged = 0;
    for (let kill = 0; kill < KILLS; kill++) {
      const streams = new Set(promised.keys());
      const before = telemetry.of(DEVICE).length;
      const agent = start(site, mosquitto);
      const kept = () => [...durable(journal)].filter(([stream]) => !streams.has(stream));
      // Five moments to be killed in.
      switch (kill % 5) {
        case 0: // while all is well
          await until("some more is in Kafka", () => telemetry.of(DEVICE).length >= before + 1 + (kill % 13));
          break;
        case 1: // with the broker gone, on a backlog
          await until("something is in Kafka", () => telemetry.of(DEVICE).length > before);
          await mosquitto.kill();
          await until("a backlog is on flash", () =>
            kept().some(([, numbers]) => numbers.length >= 10 + (kill % 40)),
          );
          break;
        case 2: // at the first record on flash
          await until("something is on flash", () => kept().length > 0);
          break;
        case 3: // as soon as it is connected, with whatever earlier kills left
          await agent.ready("it is connected", () => agent.log().includes("connected to"));
          break;
        default: // in the middle of draining, with the relay killed before
          await relay.program.kill("SIGKILL");
          await until("a backlog is on flash", () => kept().some(([, numbers]) => numbers.length >= 10));
          await relay.start();
          await until("some more is in Kafka", () => telemetry.of(DEVICE).length >= before + 3);
      }
      await agent.kill("SIGKILL");
      const kafkaHas = held(telemetry);
      for (const [stream, numbers] of durable(journal)) {
        const last = numbers.at(-1);
        promised.set(stream, Math.max(promised.get(stream) ?? 0, last));
        unacknowledged += numbers.filter((seq) => seq > (kafkaHas.get(stream)?.last ?? 0)).length;
      }
      if (kill % 5 === 1) await mosquitto.start();
    }
    const last = start(site, mosquitto);
    await drained(telemetry, promised, 60_000 + KILLS * 500);
    assert.equal((await last.kill("SIGTERM")).code, 0);
    const seen = check(telemetry, promised);
    console.log(
      `${KILLS} kills: ${seen.streams} streams, ${seen.batches} batches, ${seen.readings} readings in Kafka; ` +
        `${unacknowledged} times a batch was on flash and not in Kafka when the agent was killed; lost 0, repeated 0`,
    );
    assert.ok(unacknowledged > KILLS, "the kills came when something was at stake");
  },
  { limit: 120_000 + KILLS * 6_000 },
);

scenario("two boxes from one card with a backlog: it drains once", async (site) => {
  const [kafka, mosquitto] = await Promise.all([Kafka.start(site), Mosquitto.start(site)]);
  const relay = await Relay.start(site, { kafka, mosquitto });
  const telemetry = new Telemetry(site, kafka);
  await mosquitto.kill();
  const original = start(site, mosquitto);
  await until("a backlog is on flash", () =>
    [...durable(site.path("state/journal")).values()].some((numbers) => numbers.length >= 50),
  );
  await original.kill("SIGKILL");
  const promised = new Map(
    [...durable(site.path("state/journal"))].map(([stream, numbers]) => [stream, numbers.at(-1)]),
  );
  // All but the socket, which is no file.
  cpSync(site.path("state"), site.path("clone"), {
    recursive: true,
    filter: (path) => !path.endsWith(".sock"),
  });
  await mosquitto.start();
  const agents = ["state", "clone"].map((state) => start(site, mosquitto, { name: `box-${state}`, state }));
  // Both play the whole trace, and the backlog comes from one of them.
  const backlog = [...promised.keys()];
  await drained(telemetry, promised);
  for (const agent of agents) {
    await until(`${agent.name} says that there is another box`, () =>
      agent.log().includes("another box uses this device's name"),
    );
  }
  await telemetry.untilCount(DEVICE, 2 * sensors.count, 90_000);
  check(telemetry, promised);
  const streams = held(telemetry);
  assert.equal(streams.size, backlog.length + 2, "the backlog's stream, and one of each box");
  assert.match(relay.program.log(), /2 boxes use this device's name/);
});
