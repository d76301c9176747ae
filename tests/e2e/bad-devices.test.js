/** The link under bad input and odd devices: answered as the contract says, counted, and everyone else is served on. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { startAgent } from "./harness/agent.js";
import { Device } from "./harness/device.js";
import { Kafka } from "./harness/kafka.js";
import { Mosquitto } from "./harness/mosquitto.js";
import { Relay } from "./harness/relay.js";
import { topic } from "./harness/shard.js";
import { repository, scenario } from "./harness/site.js";
import { Telemetry } from "./harness/telemetry.js";
import { bits, Trace } from "./harness/trace.js";
import { until } from "./harness/until.js";

const sensors = Trace.read(join(repository, "bench/data/sensors-1hz.csv"));
const REFUSALS = "headwater_bridge_refusals_total";
const UNKNOWN_STREAMS = "headwater_bridge_unknown_streams_total";

async function path(site, settings) {
  const [kafka, mosquitto] = await Promise.all([Kafka.start(site), Mosquitto.start(site)]);
  const relay = await Relay.start(site, { kafka, mosquitto, settings });
  return { kafka, mosquitto, relay, telemetry: new Telemetry(site, kafka) };
}

/** What Kafka holds of the device's one series. */
function values(telemetry, device) {
  return (telemetry.readings(device).value ?? []).map(([, value]) => value);
}

scenario(
  "payloads that are garbage, cut short, too large or of another device harm nobody else",
  async (site) => {
    const { mosquitto, relay, telemetry } = await path(site);
    const trace = sensors.slice(site, "trace.csv", 0, 1200);
    startAgent(site, { device: "good", mosquitto, trace, speed: 200 });

    const bad = await Device.connect(site, mosquitto, "bad");
    // A frame's header is read first: where it happens to make sense, it names a stream that nobody said hello for.
    const turnedAway = async () => (await relay.metric(REFUSALS)) + (await relay.metric(UNKNOWN_STREAMS));
    const counted = async (what, send) => {
      const before = await turnedAway();
      await send();
      await until(`${what} is counted as refused`, async () => (await turnedAway()) > before);
    };
    const garbage = Buffer.from(Array.from({ length: 500 }, (_, index) => (index * 7919) % 251));
    for (const kind of ["data", "hello", "series", "status"]) {
      await counted(`garbage as ${kind}`, () => bad.publish(kind, garbage));
      await counted(`an unknown version as ${kind}`, () => bad.publish(kind, [0xf0, 1, 1]));
      await counted(`too much as ${kind}`, () => bad.publish(kind, Buffer.alloc(1_500_000, 0x10)));
    }
    await counted("an empty frame", () => bad.publish("data", []));
    const raw = (name, payload) => bad.client.publishAsync(name, Buffer.from(payload), { qos: 1 });
    const wrongShard = topic("bad", "data").replace(
      /^hw1\/(\d+)/,
      (_, shard) => `hw1/${(Number(shard) + 4) % 256}`,
    );
    await counted("another shard's topic", () => raw(wrongShard, bad.frame(1, 1, [1])));
    await counted("a name that is not allowed", () => raw("hw1/0/a b/data", bad.frame(1, 1, [1])));

    // A frame of another device's stream number, without a hello of its own: asked to say hello, nothing in Kafka.
    await bad.data(bad.frame(1, 1, [1]));
    await until("the relay asks for hello", () => bad.acks.some((ack) => ack.wantHello));

    await telemetry.untilCount("good", trace.count);
    telemetry.checkEquals("good", trace);
    assert.deepEqual(telemetry.of("bad"), []);
  },
);

scenario(
  "a batch that cannot be decoded is refused by its name, and the stream goes on behind a loss record",
  async (site) => {
    const { mosquitto, relay, telemetry } = await path(site);
    const stream = 0x1122334455667788n;
    const device = await Device.connect(site, mosquitto, "flawed");
    await device.introduce([{ stream, short: 1, firstSeq: 1n, lastSeq: 9n, ackedSeq: 0n }]);
    await device.data(device.frame(1, 1, [1.5]));
    await device.acked(stream, 1);
    const before = await relay.metric(REFUSALS);
    const whole = device.frame(1, 2, [2.5, 3.5]);
    // A lost frame is not sent again by a device that does not know: repeat until it is answered, as an agent would.
    await until("the relay refuses batch 2", async () => {
      await device.data(whole.subarray(0, whole.length - 3));
      return device.acks.some((ack) =>
        ack.refusals.some((refusal) => refusal.stream === stream && refusal.seq === 2n),
      );
    });
    const refusal = device.acks.flatMap((ack) => ack.refusals)[0];
    assert.ok(refusal.reason.length > 5, refusal.reason);
    assert.ok((await relay.metric(REFUSALS)) > before);
    assert.equal(device.position(stream), 1n, "a refused batch is not acknowledged");
    await device.data(device.frame(1, 3, [4.5]));
    const loss = device.loss(1, 2, { through: 2, readings: 2 });
    await device.data(loss);
    await device.acked(stream, 2);
    await device.data(device.frame(1, 3, [4.5]));
    await device.acked(stream, 3);
    await telemetry.untilCount("flawed", 2);
    telemetry.checkChain("flawed");
    assert.deepEqual(values(telemetry, "flawed"), [1.5, 4.5].map(bits));
    assert.deepEqual(telemetry.of("flawed")[1].loss, {
      through: 2,
      readings: 2,
      reason: "LOSS_REASON_REFUSED",
    });
  },
);

scenario("duplicates are acknowledged again and not stored again; gaps are not stored", async (site) => {
  const { mosquitto, relay, telemetry } = await path(site);
  const stream = 0xfedcba9876543210n;
  const device = await Device.connect(site, mosquitto, "odd");
  await device.introduce([{ stream, short: 7, firstSeq: 1n, lastSeq: 5n, ackedSeq: 0n }]);
  await device.data(device.frame(7, 1, [1]));
  await device.data(device.frame(7, 1, [1]));
  await device.data(device.frame(7, 3, [3]));
  await device.acked(stream, 1);
  await until("the relay says to go back", () => device.acks.some((ack) => ack.goBack && !ack.wantHello));
  assert.equal(device.position(stream), 1n);
  for (const seq of [2, 3, 2, 1, 3, 4]) await device.data(device.frame(7, seq, [seq]));
  await device.acked(stream, 4);
  // Again after all: answered at once.
  device.acks.length = 0;
  await device.data(device.frame(7, 4, [4]));
  await device.acked(stream, 4);
  await telemetry.untilCount("odd", 4);
  telemetry.checkChain("odd");
  assert.deepEqual(values(telemetry, "odd"), [1, 2, 3, 4].map(bits));
  assert.ok((await relay.metric("headwater_bridge_duplicates_total")) >= 4);
  assert.ok((await relay.metric("headwater_bridge_gaps_total")) >= 1);
});

scenario("an unknown series set is asked for, and nothing is stored until it is known", async (site) => {
  const { mosquitto, telemetry } = await path(site);
  const stream = 42n;
  const device = await Device.connect(site, mosquitto, "nameless");
  await device.introduce([{ stream, short: 1, firstSeq: 1n, lastSeq: 1n, ackedSeq: 0n }]);
  await device.data(device.frame(1, 1, [1], { hash: 0xdeadbeef }));
  await until("the relay asks for the set", () =>
    device.acks.some((ack) => ack.wantSeries.includes(0xdeadbeef)),
  );
  assert.equal(device.position(stream), 0n);
  await device.data(device.frame(1, 1, [1]));
  await device.acked(stream, 1);
  await telemetry.untilCount("nameless", 1);
  telemetry.checkChain("nameless");
});

scenario("values of every kind arrive bit for bit", async (site) => {
  const { mosquitto, telemetry } = await path(site);
  const stream = 99n;
  const odd = [
    Number.NaN,
    -0,
    0,
    Number.POSITIVE_INFINITY,
    Number.NEGATIVE_INFINITY,
    5e-324,
    1.7976931348623157e308,
    0.1,
  ];
  const device = await Device.connect(site, mosquitto, "extreme");
  await device.introduce([{ stream, short: 1, firstSeq: 1n, lastSeq: 1n, ackedSeq: 0n }]);
  await device.data(device.frame(1, 1, odd));
  await device.acked(stream, 1);
  await telemetry.untilCount("extreme", odd.length);
  assert.deepEqual(values(telemetry, "extreme"), odd.map(bits));
});
