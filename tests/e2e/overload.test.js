/** The bridge under more than it can do at once, and with parts that refuse: memory stays bounded, nothing is lost, nobody pays for another. */

import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { deflateRawSync } from "node:zlib";
import { Device } from "./harness/device.js";
import { Kafka } from "./harness/kafka.js";
import { Mosquitto } from "./harness/mosquitto.js";
import { Relay } from "./harness/relay.js";
import { scenario } from "./harness/site.js";
import { Swarm } from "./harness/swarm.js";
import { Telemetry } from "./harness/telemetry.js";
import { createTopics, states, topics } from "./harness/topics.js";
import { bits } from "./harness/trace.js";
import { until } from "./harness/until.js";

const TELEMETRY = "headwater.telemetry";
// As deploy/mosquitto has it, and more: what a broker drops is not the matter here.
const ROOM = "max_queued_messages 50000\n";

async function parts(site) {
  const [kafka, mosquitto] = await Promise.all([Kafka.start(site), Mosquitto.start(site, ROOM)]);
  return { kafka, mosquitto };
}

/** Kafka holds every batch of the swarm, each once and in order. */
async function checkSwarm(telemetry, swarm) {
  const all = [...swarm.devices.values()].reduce((sum, device) => sum + device.total, 0);
  const of = () => telemetry.records.filter((record) => swarm.devices.has(record.device));
  await until(`Kafka holds ${all} batches`, () => of().length >= all, 60_000);
  const last = new Map();
  for (const { device, seq } of of()) {
    assert.equal(seq, (last.get(device) ?? 0) + 1, `the next batch of ${device}`);
    last.set(device, seq);
  }
  assert.equal(of().length, all);
}

async function drained(swarm, limit = 60_000) {
  const left = () => {
    if (swarm.waiting === 0) return true;
    throw new Error(`${swarm.waiting} are not`);
  };
  await until("all batches are acknowledged", left, limit);
}

scenario(
  "five thousand devices say hello at once, and again when the broker has forgotten them",
  async (site) => {
    const { kafka, mosquitto } = await parts(site);
    const relay = await Relay.start(site, {
      kafka,
      mosquitto,
      part: "bridge",
      settings: { bridge: { state_rate: 5000 } },
    });
    const telemetry = new Telemetry(site, kafka);
    // Nothing is asked for again: every hello and every batch is answered the first time.
    const swarm = await Swarm.connect(site, mosquitto, { count: 5000, readings: 2, ackTimeout: 600_000 });
    swarm.hello();
    swarm.sample();
    await drained(swarm);
    assert.equal(swarm.resentBatches, 0);
    assert.equal(await relay.metric("headwater_bridge_devices_online"), 5000);
    assert.equal(await relay.metric("headwater_bridge_mqtt_connects_total"), 1);
    const known = () => {
      const held = states(kafka);
      const missing = [...swarm.devices.values()].filter(({ name, stream }) => {
        const state = held.get(name);
        return !state?.online || state.positions[stream.toString(16).padStart(16, "0")] !== 1;
      });
      if (missing.length === 0) return true;
      throw new Error(
        `${missing.length} are not, first ${missing[0].name}: ${JSON.stringify(held.get(missing[0].name))}`,
      );
    };
    await until("Kafka's states have all of them on line, with their positions", known);

    await mosquitto.kill();
    swarm.sample();
    await mosquitto.start();
    await swarm.reconnect();
    swarm.hello();
    swarm.sample();
    await drained(swarm);
    await checkSwarm(telemetry, swarm);
  },
);

scenario("a record that is too large for Kafka is refused alone, and kept as a dead letter", async (site) => {
  const { kafka, mosquitto } = await parts(site);
  const settings = { kafka: { partitions: 1 } };
  const relay = await Relay.start(site, { kafka, mosquitto, settings, part: "bridge" });
  const telemetry = new Telemetry(site, kafka);
  // Smaller than what is sent together as well.
  topics(kafka, "limit", TELEMETRY, 3000);
  const swarm = await Swarm.connect(site, mosquitto, { count: 100, readings: 20, ackTimeout: 2000 });
  const stream = 77n;
  const device = await Device.connect(site, mosquitto, "wide");
  await device.introduce([{ stream, short: 1, firstSeq: 1n, lastSeq: 3n, ackedSeq: 0n }]);
  swarm.hello();
  for (let round = 0; round < 8; round++) swarm.sample();
  // Sent together with the others' it may be refused with them: then it is sent again, as an agent does.
  await until("the first batch is acknowledged", async () => {
    await device.data(device.frame(1, 1, [1]));
    return device.position(stream) === 1n;
  });
  const wide = device.frame(1, 2, Array.from({ length: 1000 }, Math.random));
  const refusals = () => device.acks.flatMap((ack) => ack.refusals);
  await until("the wide batch is refused", async () => {
    await device.data(wide);
    swarm.sample();
    return refusals().length > 0;
  });
  assert.match(refusals()[0].reason, /Kafka refuses the record/);
  assert.equal(refusals()[0].seq, 2n);
  await until("the device goes on behind a loss record", async () => {
    await device.data(device.loss(1, 2, { through: 2, readings: 1000 }));
    await device.data(device.frame(1, 3, [3]));
    return device.position(stream) === 3n;
  });
  await drained(swarm);
  await checkSwarm(telemetry, swarm);
  telemetry.checkChain("wide");
  assert.equal(telemetry.records.filter((record) => record.loss).length, 1);
  assert.equal(await relay.metric("headwater_bridge_dead_letters_total"), 1);
});

scenario("while Kafka is slow, and then away, memory is bounded and MQTT goes on", async (site) => {
  const { kafka, mosquitto } = await parts(site);
  const bound = 128 << 10;
  const settings = { bridge: { in_flight: "128 KiB" }, mqtt: { keep_alive: "1s" } };
  const relay = await Relay.start(site, { kafka, mosquitto, settings, part: "bridge" });
  const telemetry = new Telemetry(site, kafka);
  const swarm = await Swarm.connect(site, mosquitto, {
    count: 100,
    readings: 20,
    window: 16,
    ackTimeout: 1000,
  });
  swarm.hello();
  await until("all are answered", () => swarm.answered === swarm.devices.size);
  const flying = [];
  const dropped = () => relay.metric("headwater_bridge_dropped_total");
  const load = async () => {
    for (let round = 0; round < 2; round++) swarm.sample();
    flying.push(await relay.metric("headwater_bridge_in_flight_bytes"));
    await sleep(100);
  };
  const before = await dropped();
  await until("more came than may be in flight", async () => {
    process.kill(kafka.pid, "SIGSTOP");
    for (let beat = 0; beat < 6; beat++) await load();
    process.kill(kafka.pid, "SIGCONT");
    return (await dropped()) > before;
  });
  await kafka.stop({ kill: true });
  // Some keep-alives long.
  await until("the relay says that it is not ready", async () => !(await fetch(`${relay.admin}/readyz`)).ok);
  for (let beat = 0; beat < 20; beat++) await load();
  await kafka.start();
  await drained(swarm);
  await checkSwarm(telemetry, swarm);
  const most = Math.max(...flying);
  assert.ok(most > bound / 2 && most < bound + 10_000, `${most} bytes were in flight`);
  assert.equal(await relay.metric("headwater_bridge_mqtt_connects_total"), 1);
  assert.equal(swarm.disconnections, 0);
});

scenario(
  "missing topics are waited for, and bad input of many kinds harms only who sends it",
  async (site) => {
    const { kafka, mosquitto } = await parts(site);
    // Said a year ago, and kept by the broker since; the device is long gone.
    const ghost = await Device.connect(site, mosquitto, "ghost");
    await ghost.introduce([{ stream: 4n, short: 1, firstSeq: 7n, lastSeq: 9n, ackedSeq: 6n }]);
    await ghost.client.endAsync(true);
    const settings = { kafka: { create_topics: false } };
    const relay = await Relay.prepare(site, { kafka, mosquitto, settings, part: "bridge" });
    relay.launch();
    await relay.says(`topic ${TELEMETRY} does not exist; create it, or set kafka.create_topics = true`);
    createTopics(kafka);
    await relay.untilReady();
    const telemetry = new Telemetry(site, kafka);
    const kept = () => states(kafka).get("ghost");
    await until("the relay knows the ghost", () => kept());
    assert.equal(kept().online, false, "what a broker kept says nothing about now");

    // Clocks in 1970 and 2106, and at the ends of what 64 bits hold.
    const stream = 11n;
    const odd = await Device.connect(site, mosquitto, "odd-clock");
    await odd.introduce([{ stream, short: 1, firstSeq: 1n, lastSeq: 9n, ackedSeq: 0n }]);
    const firsts = [0n, 4_294_967_295_000_000n, -62_135_596_800_000_000n, (1n << 63n) - 3n, -(1n << 63n)];
    for (const [index, first] of firsts.entries()) {
      await odd.data(odd.frame(1, index + 1, [1.5, 2.5], { first }));
      await odd.acked(stream, index + 1);
    }
    await telemetry.untilCount("odd-clock", 2 * firsts.length);
    const expected = firsts.flatMap((first) => [
      [String(first), bits(1.5)],
      [String(first + 1n), bits(2.5)],
    ]);
    assert.deepEqual(telemetry.readings("odd-clock").value, expected);
    for (const record of telemetry.of("odd-clock")) {
      assert.ok(Math.abs(record.timestamp_ms - Date.now()) < 600_000, "a record's time is its arrival");
    }

    // A frame that inflates beyond what is allowed: refused by its name.
    const bomb = odd.frame(1, 6, [1], { deflate: () => deflateRawSync(Buffer.alloc(50 << 20)) });
    await odd.data(bomb);
    await until("the bomb is refused", () =>
      odd.acks.some((ack) => ack.refusals.some((refusal) => refusal.seq === 6n && refusal.stream === stream)),
    );
    // A stream of which nobody knows any more, under a number that no hello gave.
    await odd.data(odd.frame(99, 1, [9]));
    await until("hello is asked for", () => odd.acks.some((ack) => ack.wantHello));

    // Acknowledgements raced by reconnects: each connection sends all that it does not know to be acknowledged, and ends at once.
    const racing = 12n;
    let position = 0n;
    for (let round = 1; round <= 15; round++) {
      const racer = await Device.connect(site, mosquitto, "racer");
      const streams = [
        { stream: racing, short: 1, firstSeq: position + 1n, lastSeq: 40n, ackedSeq: position },
      ];
      await racer.introduce(streams, { session: BigInt(round) });
      for (let seq = position + 1n; seq <= 40n; seq++) await racer.data(racer.frame(1, seq, [Number(seq)]));
      if (round === 15) {
        await until("all are acknowledged", async () => {
          for (let seq = racer.position(racing) + 1n; seq <= 40n; seq++)
            await racer.data(racer.frame(1, seq, [Number(seq)]));
          return racer.position(racing) === 40n;
        });
      }
      const heard = racer.position(racing);
      if (heard > position) position = heard;
      await racer.client.endAsync(true);
    }
    await telemetry.untilCount("racer", 40);
    telemetry.checkChain("racer");
    assert.equal(telemetry.of("racer").length, 40);
    assert.equal(await relay.metric("headwater_bridge_mqtt_connects_total"), 1);
  },
);
