/**
 * A gateway whose power is cut under load, again and again: a whole aarch64 machine in qemu, Debian's kernel, the agent as it ships on ext4,
 * and a disk whose cache the cut empties in any order (harness/disk.js). Two gateways at a time, as journals lie on cards: one has a partition
 * of its own for it, as deploy/fstab says, one has all on a single one.
 *
 * What counts, exactly. After each cut the disk is looked at from outside: both ext4 and the agent's journal must be whole as they are found
 * (the journal is read by code of the tests' own), and what stands there is promised. It must be no less than what the agent had said to be
 * durable in the moment before. What the cut took of closed batches may be no older than `sync_after`, but for what a starved machine
 * takes to come round to it. The next hello must tell of a stream that ended so. At the end, for each stream: Kafka holds numbers 1, 2, 3, …
 * without hole and without repeat, to the last one promised at least, no loss record among them, and the readings are the trace's first ones,
 * in order and bit for bit.
 *
 * HEADWATER_CUTS: how many cuts (2). HEADWATER_SEED: what is drawn (1). HEADWATER_AARCH64_AGENT: the program, unless scripts/cross has built it.
 */

import assert from "node:assert/strict";
import { join } from "node:path";
import { fromBinary } from "@bufbuild/protobuf";
import mqtt from "mqtt";
import { link } from "./harness/contract.js";
import { Gateway } from "./harness/gateway.js";
import { Kafka } from "./harness/kafka.js";
import { Mosquitto } from "./harness/mosquitto.js";
import { Relay } from "./harness/relay.js";
import { topic } from "./harness/shard.js";
import { repository, scenario } from "./harness/site.js";
import { Telemetry } from "./harness/telemetry.js";
import { Trace } from "./harness/trace.js";
import { until } from "./harness/until.js";

const CUTS = Number(process.env.HEADWATER_CUTS ?? 2);
const SEED = Number(process.env.HEADWATER_SEED ?? 1);
/** Beside sync_after, for a machine that gets little of a processor. */
const SLACK_S = 20;
const LIMIT = 300_000;
/** What a write of zeros has at least when it makes a segment: 16 blocks. */
const ZEROS = Buffer.alloc(64 * 1024);
const sensors = Trace.read(join(repository, "bench/data/sensors-1hz.csv"));

/** Ten rows a second in five batches, and eight sensors beside them. */
const load = (device) => ({
  device,
  batch: { readings: 80, age: "200ms" },
  // A small window, so that a backlog takes a while to drain.
  uplink: {
    ack_timeout: "2s",
    keep_alive: "5s",
    backoff: { min: "200ms", max: "1s" },
    window: { batches: 3 },
  },
  journal: { max_bytes: "8 MiB" },
  health: { interval: "0s" },
  source: [
    { type: "replay", path: "/etc/headwater/trace.csv", speed: 10, at_end: "stop", times: "original" },
    { type: "simulated", prefix: "simulated." },
  ],
});

/** xorshift32, from 0 to 1: the same cuts for the same seed, as far as a machine's time allows. */
function drawing(seed) {
  let state = Math.imul(seed, 0x9e3779b9) | 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}

/** One gateway's lives. */
class Pole {
  /** stream → the last number that was found on its disk after a cut. */
  promised = new Map();
  /** Streams that held something when the power was cut, and those that a hello has told of as torn since. */
  cutOff = new Set();
  torn = new Map();
  starts = [];
  /** What the agent had told of itself before each cut. */
  ends = [];
  seen = { cuts: {}, cached: 0, lost: 0, unacknowledged: 0, taken: 0, oldest: 0 };

  static async make(site, parts, { device, mount, seed }) {
    const pole = new Pole();
    Object.assign(pole, { device, ...parts, random: drawing(seed) });
    pole.gateway = await Gateway.make(site, {
      name: device,
      mount,
      settings: { load: load(device) },
      files: { "etc/headwater/trace.csv": sensors.path },
      random: pole.random,
    });
    const client = await mqtt.connectAsync(parts.mosquitto.url, { clientId: `spy-${device}` });
    site.onClose(() => client.endAsync(true));
    client.on("message", (_, payload) => {
      for (const { stream, torn, lastSeq } of fromBinary(link.HelloSchema, payload.subarray(1)).streams) {
        if (torn) pole.torn.set(stream.toString(16).padStart(16, "0"), Number(lastSeq));
      }
    });
    await client.subscribeAsync(topic(device, "hello"), { qos: 1 });
    return pole;
  }

  get records() {
    return this.telemetry.of(this.device);
  }

  /** The last number of a stream that Kafka holds. */
  held(stream) {
    return this.records.reduce(
      (last, record) => (record.stream === stream ? Math.max(last, record.seq) : last),
      0,
    );
  }

  async boot(sync) {
    this.sync = sync;
    this.machine = await this.gateway.powerOn({
      broker: this.mosquitto.port,
      settings: "load",
      variables: { HEADWATER_AGENT_JOURNAL__SYNC_AFTER: `${sync}s` },
    });
    const machine = this.machine;
    this.starts.push(machine.poweredOn);
  }

  /** The agent's current stream, as it was last told. */
  get current() {
    return this.machine.told.at(-1).status.streams.at(-1);
  }

  untilHeldMore(count) {
    const before = this.records.length;
    return this.machine.until(
      `${count} more records of ${this.device} are in Kafka`,
      () => this.records.length >= before + count,
      LIMIT,
    );
  }

  untilOnFlash(count) {
    return this.machine.untilTold(
      `${count} batches of ${this.device} wait on flash`,
      ({ streams }) => streams.at(-1).durable_seq - streams.at(-1).first_seq >= count,
      LIMIT,
    );
  }

  /** Lives until the moment of a cut, and is cut off. */
  async live(moment) {
    const { random } = this;
    const [name, sync, live] = MOMENTS[moment % MOMENTS.length];
    await this.boot(sync);
    await live(this, random);
    const mode = ["none", "some", "some", "some"][Math.floor(random() * 4)];
    const { cached, lost } = await this.gateway.cut(mode);
    this.seen.cuts[name] = (this.seen.cuts[name] ?? 0) + 1;
    this.seen.cached += cached;
    this.seen.lost += lost;
    await this.examine(`${this.device}, cut ${name}`);
  }

  /** What the cut has left, and what it has taken. */
  async examine(cut) {
    const found = await this.gateway.found();
    // What was acknowledged before the cut was in Kafka by then: from here on this process knows of it too.
    await this.telemetry.untilEnd(LIMIT);
    for (const [stream, numbers] of found) {
      const last = numbers.at(-1);
      const first = numbers[0];
      assert.deepEqual(
        numbers,
        Array.from({ length: last - first + 1 }, (_, index) => first + index),
        `${cut}: ${stream}`,
      );
      this.promised.set(stream, Math.max(this.promised.get(stream) ?? 0, last));
      const unacknowledged = last - Math.max(this.held(stream), first - 1);
      if (unacknowledged > 0) {
        this.seen.unacknowledged += unacknowledged;
        this.cutOff.add(stream);
      }
    }
    const { told } = this.machine;
    this.checkStart(cut);
    if (told.length === 0) return;
    for (const { stream, first_seq, durable_seq } of told.at(-1).status.streams) {
      const acked = first_seq - 1;
      const durable = found.get(stream)?.at(-1) ?? 0;
      // Acknowledged since it was told, or by then: so Kafka has it, whether or not this box ever comes back.
      const elsewhere = Math.max(acked, durable_seq > durable ? durable_seq : 0);
      await until(
        `${cut}: Kafka has ${elsewhere} of ${stream}, of which ${durable} was found`,
        () => this.held(stream) >= elsewhere,
        LIMIT,
      );
    }
    this.ends.push({ cut, sync: this.sync, told });
  }

  /** The cut before has left nothing that this start could not read. */
  checkStart(cut) {
    assert.doesNotMatch(this.machine.log(), /EXT4-fs error|cannot be mounted|the agent ended|panic/, cut);
    for (const { status } of this.machine.told.slice(-1))
      assert.equal(status.stats.journal.quarantined, 0, cut);
  }

  /** How old the oldest closed batch was that a cut took, by the machine's own clock, when it last told of itself. */
  age({ cut, sync, told }) {
    const { uptime, status } = told.at(-1);
    const { stream, last_seq } = status.streams.at(-1);
    const end = this.held(stream);
    if (last_seq <= end) return;
    const closed = told.find(({ status }) =>
      status.streams.some((each) => each.stream === stream && each.last_seq > end),
    );
    const age = uptime - closed.uptime;
    this.seen.taken += last_seq - end;
    this.seen.oldest = Math.max(this.seen.oldest, age);
    assert.ok(age <= sync + SLACK_S, `${cut}: what it took was ${age} s old, with sync_after = ${sync} s`);
  }

  /** Once more, undisturbed: all that was promised comes. */
  async drain() {
    await this.boot(2);
    await this.machine.until(
      `Kafka holds all that ${this.device} had promised`,
      () => {
        const missing = [...this.promised].filter(([stream, last]) => this.held(stream) < last);
        if (missing.length === 0) return true;
        throw new Error(`${missing.length} streams lack something, first ${missing[0]}`);
      },
      LIMIT,
    );
    await this.untilHeldMore(1);
    await this.gateway.cut("all");
    this.checkStart(`${this.device}, at the end`);
  }

  check() {
    for (const end of this.ends) this.age(end);
    const streams = this.telemetry.checkChain(this.device);
    const readings = new Map(streams.map((stream) => [stream, {}]));
    for (const record of this.records) {
      assert.equal(record.loss, undefined, `a loss record in stream ${record.stream}`);
      const columns = readings.get(record.stream);
      for (const [metric, column] of Object.entries(record.columns)) {
        columns[metric] ??= [];
        columns[metric].push(...column.readings);
      }
    }
    let count = 0;
    for (const [stream, columns] of readings) {
      for (const [metric, found] of Object.entries(columns)) {
        const at = `${metric} of stream ${stream}`;
        count += found.length;
        if (metric.startsWith("simulated.")) {
          found.forEach(([time], index) => {
            assert.ok(
              index === 0 || BigInt(time) > BigInt(found[index - 1][0]),
              `${at}: order of reading ${index}`,
            );
          });
        } else {
          assert.equal(String(found), String(sensors.readings[metric].slice(0, found.length)), at);
        }
      }
    }
    for (const stream of this.cutOff) {
      assert.ok(this.torn.has(stream), `no hello has told that stream ${stream} was torn`);
      assert.ok(
        this.torn.get(stream) >= this.promised.get(stream),
        `hello told less of ${stream} than was found`,
      );
    }
    return { streams: streams.length, batches: this.records.length, readings: count };
  }

  /** From power-on to the first reading in Kafka, in seconds, of each start that came so far. */
  get times() {
    return this.starts.flatMap((start, index) => {
      const next = this.starts[index + 1] ?? Number.POSITIVE_INFINITY;
      const first = this.records.find(({ timestamp_ms: at }) => at >= start && at < next);
      return first ? [(first.timestamp_ms - start) / 1000] : [];
    });
  }
}

const between = (random, from, to) => from + Math.floor(random() * (to - from));
const isZeros = (bytes) => bytes?.length >= ZEROS.length && bytes.subarray(0, ZEROS.length).equals(ZEROS);

/** The power goes at one of the next writes, or at a flush that would have made some durable: then most is at stake. */
function cutSoon(disk, random, most) {
  const atFlush = random() < 0.7;
  let left = between(random, 0, most);
  return disk.cutAt(({ flush, cached }) => (!atFlush || (flush && cached > 0)) && left-- <= 0);
}

/** When the power is cut: name, sync_after in seconds, and how it comes to it. */
const MOMENTS = [
  [
    "on a backlog",
    2,
    async (pole, random) => {
      await pole.untilHeldMore(1);
      pole.machine.link(false);
      await pole.untilOnFlash(between(random, 20, 40));
      await cutSoon(pole.gateway.disk, random, 4);
    },
  ],
  [
    "while the backlog drains",
    2,
    async (pole, random) => {
      await pole.untilHeldMore(1);
      pole.machine.link(false);
      await pole.untilOnFlash(30);
      pole.machine.link(true);
      await pole.untilHeldMore(between(random, 1, 6));
    },
  ],
  [
    "as the next segment is made",
    0,
    async (pole, random) => {
      await pole.untilHeldMore(1);
      pole.machine.link(false);
      await pole.untilOnFlash(1);
      const { disk } = pole.gateway;
      let zeros = false;
      let left = between(random, 0, 8);
      await disk.cutAt(({ bytes }) => {
        zeros ||= isZeros(bytes);
        return zeros && left-- <= 0;
      });
    },
  ],
  [
    "while it boots",
    2,
    // The first writes are ext4's, which replays its journal, then come the agent's.
    (pole, random) => {
      pole.machine.link(false);
      return cutSoon(pole.gateway.disk, random, 12);
    },
  ],
  [
    "while all is well",
    0,
    async (pole, random) => {
      await pole.untilHeldMore(1);
      await cutSoon(pole.gateway.disk, random, 40);
    },
  ],
  [
    "on a backlog of which each batch is synced",
    0,
    async (pole, random) => {
      await pole.untilHeldMore(1);
      pole.machine.link(false);
      await pole.untilOnFlash(between(random, 5, 20));
      await cutSoon(pole.gateway.disk, random, 40);
    },
  ],
];

scenario(
  `two gateways whose power is cut ${CUTS} times under load`,
  async (site) => {
    const [kafka, mosquitto] = await Promise.all([Kafka.start(site), Mosquitto.start(site)]);
    const relay = await Relay.start(site, { kafka, mosquitto });
    const parts = { mosquitto, relay, telemetry: new Telemetry(site, kafka) };
    const poles = await Promise.all(
      ["own", "root"].map((mount, index) =>
        Pole.make(site, parts, { device: `pole-${mount}`, mount, seed: SEED * 2 + index }),
      ),
    );
    const failures = [];
    await Promise.all(
      poles.map(async (pole, index) => {
        try {
          for (let cut = index; cut < CUTS && failures.length === 0; cut += poles.length) {
            // The two begin with different moments, and each comes to all of them.
            await pole.live(Math.floor(cut / poles.length) + index);
          }
          if (failures.length === 0) await pole.drain();
        } catch (error) {
          // The other one is not left in the middle of something.
          failures.push(error);
        }
      }),
    );
    if (failures.length > 1) throw new AggregateError(failures, failures.map(String).join("\n"));
    if (failures.length > 0) throw failures[0];
    let stake = 0;
    for (const pole of poles) {
      const { streams, batches, readings } = pole.check();
      const { cuts, cached, lost, unacknowledged, taken, oldest } = pole.seen;
      const times = pole.times.sort((a, b) => a - b);
      console.log(
        `${pole.device}: ${Object.entries(cuts)
          .map(([name, count]) => `${count} ${name}`)
          .join(", ")}. ` +
          `In the disk's cache ${cached} writes, ${lost} of them lost; ${unacknowledged} times a batch was on flash and not in Kafka. ` +
          `The cuts took ${taken} closed batches, the oldest ${oldest.toFixed(1)} s old. ` +
          `${streams} streams, ${batches} batches, ${readings} readings in Kafka; lost 0, repeated 0. ` +
          `From power-on to a reading in Kafka: ${times[0]} to ${times.at(-1)} s, half within ${times[times.length >> 1]} s (TCG)`,
      );
      stake += unacknowledged;
    }
    assert.ok(stake >= CUTS, "the cuts came when something was at stake");
  },
  { limit: 900_000 + CUTS * 90_000 },
);
