/**
 * Kills, stops and pauses at random moments over two bridges, Mosquitto and Kafka, while real agents replay a trace: nothing may be lost,
 * repeated or out of order. Run by hand:
 *
 *   node tests/e2e/chaos.mjs --kills 100 [--seed 1]
 *
 * It prints what was done how often, how long it took until every device had something new in Kafka, and the reckoning: at the end
 * the agents are stopped in good order, and each device's readings in Kafka, as a consumer with `read_committed` sees them, have to be the
 * trace's from its beginning on, bit for bit; each stream numbered 1, 2, 3, … without loss records.
 */

import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { startAgent } from "./harness/agent.js";
import { Kafka } from "./harness/kafka.js";
import { Mosquitto } from "./harness/mosquitto.js";
import { Relay } from "./harness/relay.js";
import { repository, Site } from "./harness/site.js";
import { Telemetry } from "./harness/telemetry.js";
import { Trace } from "./harness/trace.js";
import { until } from "./harness/until.js";

const { values: options } = parseArgs({
  options: { kills: { type: "string", default: "100" }, seed: { type: "string", default: "1" } },
});
const KILLS = Number(options.kills);
const DEVICES = ["east", "west", "north", "south", "hill", "dale", "moor", "fen"];
// Kafka's shortest session where `scripts/kafka` runs it is 1 s; a takeover takes at least the session.
const SESSION = "3s";
const SPEED = 20;

/** Numbers from 0 to 1, the same for the same seed. */
function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

const draw = random(Number(options.seed));
const between = (low, high) => low + Math.floor(draw() * (high - low));

/** The trace again and again, with times that go on, so that it outlasts the run. */
function longTrace(site, rounds) {
  const whole = Trace.read(join(repository, "bench/data/sensors-1hz.csv"));
  const [head, ...rows] = whole.text.trimEnd().split(/\r?\n/);
  const lines = [head];
  for (let round = 0; round < rounds; round++) {
    for (const row of rows) {
      const comma = row.indexOf(",");
      lines.push(`${Number(row.slice(0, comma)) + round * rows.length * 1000}${row.slice(comma)}`);
    }
  }
  const text = `${lines.join("\n")}\n`;
  return new Trace(site.write("long.csv", text), text);
}

async function paused(pid, milliseconds) {
  process.kill(pid, "SIGSTOP");
  await sleep(milliseconds);
  process.kill(pid, "SIGCONT");
}

/** Starts Kafka; while it was away, its port may have been a connection's of somebody else for a moment. */
async function again(kafka) {
  await until("Kafka is started again", () => kafka.start().then(() => true), 90_000);
}

/** What can be done to the parts: [name, weight, what]. */
function mischief({ kafka, mosquitto, bridges }) {
  const bridge = () => bridges[between(0, bridges.length)];
  return [
    [
      "a bridge killed with -9",
      4,
      async () => {
        const one = bridge();
        await one.program.kill("SIGKILL");
        await sleep(between(0, 2000));
        one.launch();
      },
    ],
    [
      "a bridge stopped",
      2,
      async () => {
        const one = bridge();
        await one.program.kill("SIGTERM");
        await sleep(between(0, 2000));
        one.launch();
      },
    ],
    ["a bridge paused for 0.1 to 8 s", 3, () => paused(bridge().program.pid, between(100, 8000))],
    [
      "Mosquitto, without persistence, killed with -9",
      3,
      async () => {
        await mosquitto.kill();
        await sleep(between(0, 2000));
        await mosquitto.start();
      },
    ],
    ["Mosquitto paused for 0.1 to 4 s", 1, () => paused(mosquitto.program.pid, between(100, 4000))],
    [
      "Kafka killed with -9",
      3,
      async () => {
        await kafka.stop({ kill: true });
        await sleep(between(0, 2000));
        await again(kafka);
      },
    ],
    ["Kafka paused for 0.1 to 8 s", 2, () => paused(kafka.pid, between(100, 8000))],
    [
      "both bridges killed with -9",
      1,
      async () => {
        await Promise.all(bridges.map((one) => one.program.kill("SIGKILL")));
        for (const one of bridges) one.launch();
      },
    ],
    [
      "a bridge and Kafka killed with -9",
      1,
      async () => {
        const one = bridge();
        await Promise.all([one.program.kill("SIGKILL"), kafka.stop({ kill: true })]);
        await again(kafka);
        one.launch();
      },
    ],
  ];
}

function pick(choices) {
  let left = draw() * choices.reduce((sum, [, weight]) => sum + weight, 0);
  for (const choice of choices) {
    left -= choice[1];
    if (left < 0) return choice;
  }
  return choices[0];
}

/** Counts what is wrong with a device's records, rather than stopping at the first. */
function judge(telemetry, device, trace) {
  const found = { batches: 0, readings: 0, lost: 0, repeated: 0, disordered: 0, wrong: 0 };
  const next = new Map();
  const columns = {};
  for (const record of telemetry.of(device)) {
    found.batches++;
    const expected = next.get(record.stream) ?? 1;
    const last = record.loss?.through ?? record.seq;
    if (record.loss) found.lost += last - record.seq + 1;
    if (record.seq > expected) found.lost += record.seq - expected;
    if (record.seq < expected) found.repeated++;
    if (record.seq < expected - 1) found.disordered++;
    next.set(record.stream, Math.max(expected, last + 1));
    for (const [metric, column] of Object.entries(record.columns)) {
      columns[metric] ??= [];
      columns[metric].push(...column.readings);
    }
  }
  for (const [metric, held] of Object.entries(columns)) {
    found.readings += held.length;
    const all = trace.readings[metric];
    found.wrong += held.filter((reading, at) => String(reading) !== String(all[at])).length;
  }
  return { ...found, streams: next.size };
}

const site = new Site();
let failed = true;
try {
  const [kafka, mosquitto] = await Promise.all([Kafka.start(site), Mosquitto.start(site)]);
  const settings = { kafka: { partitions: 8 }, bridge: { session_timeout: SESSION } };
  const bridges = [];
  for (const _ of [1, 2])
    bridges.push(await Relay.start(site, { kafka, mosquitto, settings, part: "bridge" }));
  const telemetry = new Telemetry(site, kafka);
  // Some 25 s a kill on a slow machine.
  const trace = longTrace(site, Math.ceil((KILLS * 25 * SPEED) / 3600) + 1);
  const agents = DEVICES.map((device) =>
    startAgent(site, {
      device,
      mosquitto,
      trace,
      speed: SPEED,
      settings: { journal: { sync_after: "5s" } },
      uplink: { stop_timeout: "60s" },
    }),
  );
  const news = (before, least) => () => {
    const late = DEVICES.filter((device) => telemetry.of(device).length < before.get(device) + least);
    if (late.length === 0) return true;
    throw new Error(`nothing new of ${late}`);
  };
  const counts = () => new Map(DEVICES.map((device) => [device, telemetry.of(device).length]));
  await until("all devices are in Kafka", news(counts(), 3), 60_000);

  const choices = mischief({ kafka, mosquitto, bridges });
  const done = new Map(choices.map(([name]) => [name, []]));
  const begun = performance.now();
  for (let kill = 0; kill < KILLS; kill++) {
    await sleep(between(0, 1500));
    const [name, , act] = pick(choices);
    const at = performance.now();
    await act();
    // What was on its way when it happened does not count as going on.
    await sleep(200);
    await until(`every device goes on after: ${name}`, news(counts(), 2), 90_000);
    done.get(name).push(performance.now() - at);
    if (kill % 10 === 9) console.log(`${kill + 1} of ${KILLS}, ${telemetry.records.length} batches`);
  }
  for (const bridge of bridges) await bridge.untilReady();
  const took = Math.round((performance.now() - begun) / 1000);
  const held = agents.map((agent) => agent.kill("SIGTERM", 90_000));
  for (const { code } of await Promise.all(held))
    if (code !== 0) throw new Error(`an agent ended with ${code}`);
  let seen = -1;
  await until(
    "nothing comes any more",
    async () => {
      const before = seen;
      seen = telemetry.records.length;
      await sleep(1000);
      return before === telemetry.records.length;
    },
    60_000,
  );

  console.log(
    `\n${KILLS} in ${took} s, seed ${options.seed}, session ${SESSION}, ${DEVICES.length} agents\n`,
  );
  console.log("| what | times | until every device went on: median, longest |\n|---|---|---|");
  for (const [name, times] of done) {
    if (times.length === 0) continue;
    const sorted = times.toSorted((a, b) => a - b).map((time) => (time / 1000).toFixed(1));
    console.log(
      `| ${name} | ${sorted.length} | ${sorted[Math.floor(sorted.length / 2)]} s, ${sorted.at(-1)} s |`,
    );
  }
  const sum = { batches: 0, readings: 0, lost: 0, repeated: 0, disordered: 0, wrong: 0, kept: 0, ended: 0 };
  for (const [index, device] of DEVICES.entries()) {
    const found = judge(telemetry, device, trace);
    for (const key of Object.keys(sum)) sum[key] += found[key] ?? 0;
    // What an agent still held when it was stopped it says.
    const log = agents[index].log();
    sum.kept += Number(/(\d+) unacknowledged readings are on flash/.exec(log)?.[1] ?? 0);
    sum.ended += Number(/(\d+) readings are lost/.exec(log)?.[1] ?? 0);
  }
  console.log(
    `\n${sum.batches} batches, ${sum.readings} readings in Kafka; lost ${sum.lost}, repeated ${sum.repeated}, out of order ` +
      `${sum.disordered} batches; ${sum.wrong} readings other than the trace's, ${sum.ended} ended with an agent; ${sum.kept} were on ` +
      "their way when the agents were stopped, and are in their journals",
  );
  if (sum.lost + sum.repeated + sum.disordered + sum.wrong + sum.ended > 0) process.exitCode = 1;
  failed = process.exitCode === 1;
} finally {
  if (failed) await site.explain();
  await site.close({ keep: failed });
}
