/** Dashboards that lose their gateway, killed or told to go, and go on at another: nothing missing, nothing twice, in ALL and SERIES. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { startAgent } from "./harness/agent.js";
import { Follower } from "./harness/follower.js";
import { Kafka } from "./harness/kafka.js";
import { Mosquitto } from "./harness/mosquitto.js";
import { Relay } from "./harness/relay.js";
import { repository, scenario } from "./harness/site.js";
import { Telemetry } from "./harness/telemetry.js";
import { Trace } from "./harness/trace.js";
import { until } from "./harness/until.js";

const sensors = Trace.read(join(repository, "bench/data/sensors-1hz.csv"));
const DEVICES = ["east", "west", "north"];
// 3,600 s of readings in 18 s: while all of this happens, batches keep coming.
const SPEED = 200;

/** A bridge, two gateways whose memory is so small that most of what is missed is read from Kafka, and followers of the first. */
async function underLoad(site, disturb, gateway = {}) {
  const [kafka, mosquitto] = await Promise.all([Kafka.start(site), Mosquitto.start(site)]);
  const bridge = await Relay.start(site, { kafka, mosquitto, part: "bridge" });
  const settings = { gateway: { log: "64 KiB", ...gateway } };
  const options = { kafka, mosquitto, part: "gateway", settings };
  const gateways = [await Relay.start(site, options), await Relay.start(site, options)];
  const telemetry = new Telemetry(site, kafka);
  const start = { at: { case: "timeUs", value: 1n } };
  const followers = [
    new Follower(site, { id: 1, mode: "ALL", start }),
    new Follower(site, { id: 7, mode: "ALL", devices: ["west"] }),
    new Follower(site, { id: 3, mode: "SERIES", intervalMs: 1000, start }),
    new Follower(site, { id: 9, mode: "SERIES", devices: ["north"], intervalMs: 3_600_000 }),
  ];
  for (const follower of followers) await follower.follow(gateways[0]);
  for (const device of DEVICES) startAgent(site, { device, mosquitto, trace: sensors, speed: SPEED });
  const reached = (share) => telemetry.untilCount("east", Math.floor(sensors.count * share));
  await disturb({ gateways, followers, reached, bridge });
  for (const device of DEVICES) {
    await telemetry.untilCount(device, sensors.count);
    telemetry.checkEquals(device, sensors);
  }
  const [everything, west, all, north] = followers;
  for (const [follower, device] of [...DEVICES.map((device) => [everything, device]), [west, "west"]])
    await checkBatches(follower, device, telemetry);
  assert.ok(west.batches.every((batch) => batch.device === "west"));
  for (const [follower, device] of [...DEVICES.map((device) => [all, device]), [north, "north"]])
    await checkSeries(follower, device);
  assert.equal(all.series.size, DEVICES.length * Object.keys(sensors.readings).length);
  for (const follower of followers) assert.deepEqual(follower.gaps, []);
}

/** The follower has this device's batches as Kafka has them: each once, in order. */
async function checkBatches(follower, device, telemetry) {
  const kafka = telemetry.of(device);
  await until(
    `a follower has all ${kafka.length} batches of ${device}`,
    () => follower.of(device).length >= kafka.length,
  );
  const named = (batch) => `${batch.stream} ${batch.seq}`;
  assert.deepEqual(follower.of(device).map(named), kafka.map(named));
  assert.deepEqual(
    follower.of(device).map((batch) => batch.columns),
    kafka.map((record) => record.columns),
  );
}

/** All buckets of this device joined are what all its readings are. */
async function checkSeries(follower, device) {
  for (const [metric, readings] of Object.entries(sensors.readings)) {
    const name = `${device} ${metric}`;
    const values = readings.map(([time, bits]) => [BigInt(time), double(bits)]);
    await until(
      `a follower has ${values.length} readings of ${name}`,
      () => (follower.series.get(name)?.count ?? 0) >= values.length,
    );
    const numbers = values.map(([, value]) => value);
    const latest = values.reduce((found, reading) => (reading[0] >= found[0] ? reading : found));
    assert.deepEqual(follower.series.get(name), {
      count: values.length,
      min: Math.min(...numbers),
      max: Math.max(...numbers),
      last: latest[1],
      lastUs: latest[0],
    });
  }
}

function double(bits) {
  const view = new DataView(new ArrayBuffer(8));
  view.setBigUint64(0, BigInt(`0x${bits}`));
  return view.getFloat64(0);
}

scenario(
  "gateways killed with -9 in turn",
  (site) =>
    underLoad(site, async ({ gateways, followers, reached }) => {
      for (const [round, share] of [0.1, 0.25, 0.4, 0.55].entries()) {
        await reached(share);
        const [from, to] = round % 2 ? [gateways[1], gateways[0]] : gateways;
        await from.program.kill("SIGKILL");
        for (const follower of followers) {
          await follower.live.closed;
          await follower.follow(to);
        }
        await from.start();
      }
    }),
  { limit: 240_000 },
);

scenario(
  "connections broken off in the middle of frames, gateways in turn",
  (site) =>
    underLoad(site, async ({ gateways, followers, reached }) => {
      for (let round = 1; round <= 12; round++) {
        await reached(round / 20);
        for (const follower of followers) {
          follower.breakOff();
          await follower.follow(gateways[round % 2]);
        }
      }
    }),
  { limit: 240_000 },
);

scenario(
  "gateways told to stop with SIGTERM, under load, in turn",
  (site) =>
    underLoad(
      site,
      async ({ gateways, followers, reached }) => {
        for (const [round, share] of [0.15, 0.4].entries()) {
          await reached(share);
          const [from, to] = round % 2 ? [gateways[1], gateways[0]] : gateways;
          const stopped = from.program.kill("SIGTERM");
          for (const follower of followers) {
            const closed = await follower.live.closed;
            assert.equal(closed.code, 1001, closed.reason);
            const goodbye = follower.goodbyes[round];
            assert.ok(goodbye, "Goodbye came before the close frame");
            assert.deepEqual(
              goodbye.cursors.map(({ id }) => id),
              [follower.subscribe.id],
            );
            assert.ok(goodbye.retryAfterMs > 0 && goodbye.retryAfterMs < 10_000);
            await follower.follow(to);
          }
          assert.equal((await stopped).code, 0);
          await from.start();
        }
      },
      { drain: "1s" },
    ),
  { limit: 240_000 },
);

scenario(
  "a gateway that stops says so first, takes nobody in, and lets its connections go one by one",
  async (site) => {
    const [kafka, mosquitto] = await Promise.all([Kafka.start(site), Mosquitto.start(site)]);
    const settings = { gateway: { drain: "8s" } };
    const gateway = await Relay.start(site, { kafka, mosquitto, part: "gateway", settings });
    const followers = [];
    for (let id = 1; id <= 40; id++) {
      const follower = new Follower(site, { id, mode: "ALL" });
      await follower.follow(gateway);
      followers.push(follower);
    }
    const stopped = gateway.program.kill("SIGTERM");
    const readiness = async () => {
      const answer = await fetch(`${gateway.admin}/readyz`);
      return !answer.ok && (await answer.text());
    };
    assert.match(await until("the gateway says that it is not ready", readiness, 10_000), /stopping/);
    await assert.rejects(fetch(gateway.page), "nobody is taken in");
    const still = followers.filter((follower) => follower.open).length;
    assert.ok(still > 0, "some are served on while others have gone");
    const closed = await Promise.all(followers.map((follower) => follower.live.closed));
    assert.ok(closed.every(({ code }) => code === 1001));
    const waits = new Set(followers.map((follower) => follower.goodbyes[0].retryAfterMs));
    assert.ok(waits.size > 10, `each is told another time to come back: ${[...waits]}`);
    assert.equal((await stopped).code, 0);
  },
);
