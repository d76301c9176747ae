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
 * in order and bit for bit. Where the disk has torn a write of several batches, which was not promised yet, an earlier one of them may be a loss record.
 *
 * What the agent takes meanwhile is read inside the machine, up to the moment of each cut: memory, processor time, bytes to the disk.
 *
 * HEADWATER_CUTS: how many cuts (2). HEADWATER_SEED: what is drawn, and with which moment the cuts begin; each commit has another one, and the log
 * says which. HEADWATER_GATEWAY_AGENT: the program, unless scripts/cross has built it.
 */

import assert from "node:assert/strict";
import { join } from "node:path";
import { fromBinary } from "@bufbuild/protobuf";
import mqtt from "mqtt";
import { link } from "./harness/contract.js";
import { between, drawing, seedOfCommit } from "./harness/drawing.js";
import { Gateway, ships } from "./harness/gateway.js";
import { Kafka } from "./harness/kafka.js";
import { Mosquitto } from "./harness/mosquitto.js";
import { Relay } from "./harness/relay.js";
import { topic } from "./harness/shard.js";
import { repository, scenario } from "./harness/site.js";
import { Telemetry } from "./harness/telemetry.js";
import { Trace } from "./harness/trace.js";
import { until } from "./harness/until.js";

const CUTS = Number(process.env.HEADWATER_CUTS ?? 2);
const SEED = Number(process.env.HEADWATER_SEED ?? seedOfCommit());
/** How to make the same cuts again, as far as a machine's time allows. */
const AGAIN = `HEADWATER_CUTS=${CUTS} HEADWATER_SEED=${SEED} node --test tests/e2e/power.test.js`;
/** With so many cuts, one of them has cost the disk something. */
const MANY = 20;
/** Beside sync_after, for a machine that gets little of a processor. */
const SLACK_S = 20;
const LIMIT = 300_000;
/** What the agent may take under this load, some three times what it took (CONTRIBUTING.md); memory, which no other load changes, as README has it. */
const MOST = {
  /** KiB, of the program that ships. */
  peak: 4096,
  /** Of one core (TCG), where it was looked at for so many seconds at least. */
  share: 0.6,
  seconds: 5,
  /** KiB a second to the disk, by sync_after; and in each life a segment's zeros, with what ext4 has to say of them. */
  written: { 0: 45, 2: 6 },
  zeros: 512,
};
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
  seen = { cuts: {}, cached: 0, lost: 0, torn: 0, unacknowledged: 0, taken: 0, oldest: 0, gone: 0 };
  /** What the agent took while it was told of, of all lives: the most memory, KiB; processor time, seconds; KiB to the disk; seconds. */
  took = { peak: 0, cpu: 0, written: 0, seconds: 0 };
  /** KiB that it may have written. */
  may = 0;

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
    const { name, sync, backlog, live } = MOMENTS[moment % MOMENTS.length];
    await this.boot(sync);
    await live(this, random);
    const mode = ["none", "some", "some", "some"][Math.floor(random() * 4)];
    const lost = await this.gateway.cut(mode);
    this.seen.cuts[name] = (this.seen.cuts[name] ?? 0) + 1;
    for (const [what, count] of Object.entries(lost)) this.seen[what] += count;
    const { unacknowledged } = this.seen;
    await this.examine(`${this.device}, cut ${name}`);
    if (backlog) assert.ok(this.seen.unacknowledged > unacknowledged, `cut ${name}: nothing was at stake`);
    this.count(name);
  }

  /** What the agent took in this life, from when it was first told of. */
  count(name) {
    const { told } = this.machine;
    if (told.length < 2) return;
    const [first, last] = [told[0], told.at(-1)];
    const lived = {
      cpu: last.cpu - first.cpu,
      written: last.written - first.written,
      seconds: last.uptime - first.uptime,
    };
    const peak = Math.max(...told.map((each) => each.peak));
    for (const [what, amount] of Object.entries(lived)) this.took[what] += amount;
    this.took.peak = Math.max(this.took.peak, peak);
    this.may += MOST.zeros + MOST.written[this.sync] * lived.seconds;
    console.log(
      `${this.device}, ${name}: ${peak} KiB at most, ${lived.cpu.toFixed(2)} s of processor and ${lived.written} KiB to the disk ` +
        `in ${lived.seconds.toFixed(1)} s`,
    );
  }

  /** What the cut has left, and what it has taken. */
  async examine(cut) {
    const { streams: found } = await this.gateway.found();
    // What was acknowledged before the cut was in Kafka by then: from here on this process knows of it too.
    await this.telemetry.untilEnd(LIMIT);
    for (const [stream, numbers] of found) {
      const first = numbers[0];
      const hole = numbers.findIndex((number, index) => number !== first + index);
      if (this.gateway.torn === 0) assert.equal(hole, -1, `${cut}: ${stream} has ${numbers}`);
      const last = numbers.at(hole < 0 ? -1 : hole - 1);
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
    for (const { status } of this.machine.told.slice(-1)) {
      const { quarantined } = status.stats.journal;
      // What is left of a torn write is counted as well, though nothing of it was ever promised.
      if (this.gateway.torn === 0) assert.equal(quarantined, 0, cut);
    }
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

  /** What it took is what a gateway has. */
  checkTook() {
    const { peak, cpu, written, seconds } = this.took;
    const share = cpu / seconds;
    console.log(
      `${this.device}, ${seconds.toFixed(0)} s: at most ${peak} KiB of memory, ${(100 * share).toFixed(1)} % of one core (TCG), ` +
        `${written.toFixed(0)} KiB to the disk`,
    );
    if (ships) assert.ok(peak <= MOST.peak, `${peak} KiB of memory`);
    if (seconds >= MOST.seconds) assert.ok(share <= MOST.share, `${share} of a core`);
    assert.ok(written <= this.may, `${written} KiB to the disk, of ${this.may}`);
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
    const ended = new Set();
    for (const record of this.records) {
      if (record.loss) {
        // Of several batches in a write that was torn an earlier one can be gone where a later one is there.
        const promised = this.promised.get(record.stream) ?? 0;
        assert.ok(
          this.gateway.torn > 0 && record.seq > promised,
          `a loss record in stream ${record.stream} at ${record.seq}, of which ${promised} was promised`,
        );
        ended.add(record.stream);
        this.seen.gone++;
      }
      // The readings behind it are no longer the trace's first ones.
      if (ended.has(record.stream)) continue;
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

const isZeros = (bytes) => bytes?.length >= ZEROS.length && bytes.subarray(0, ZEROS.length).equals(ZEROS);

/** The power goes at one of the next writes, or at a flush that would have made some durable: then most is at stake. */
function cutSoon(disk, random, most) {
  const atFlush = random() < 0.7;
  let left = between(random, 0, most);
  return disk.cutAt(({ flush, cached }) => (!atFlush || (flush && cached > 0)) && left-- <= 0);
}

/**
 * When the power is cut: name, sync_after in seconds, whether something waits on flash then, and how it comes to it. Of two that follow each other
 * one has a backlog.
 */
const MOMENTS = [
  {
    name: "on a backlog",
    sync: 2,
    backlog: true,
    async live(pole, random) {
      await pole.untilHeldMore(1);
      pole.machine.link(false);
      await pole.untilOnFlash(between(random, 20, 40));
      await cutSoon(pole.gateway.disk, random, 4);
    },
  },
  {
    name: "while the backlog drains",
    sync: 2,
    async live(pole, random) {
      await pole.untilHeldMore(1);
      pole.machine.link(false);
      await pole.untilOnFlash(30);
      pole.machine.link(true);
      await pole.untilHeldMore(between(random, 1, 6));
    },
  },
  {
    name: "as the next segment is made",
    sync: 0,
    backlog: true,
    async live(pole, random) {
      await pole.untilHeldMore(1);
      pole.machine.link(false);
      // More than the window, which may be in Kafka and not acknowledged.
      await pole.untilOnFlash(5);
      const { disk } = pole.gateway;
      let zeros = false;
      let left = between(random, 0, 8);
      await disk.cutAt(({ bytes }) => {
        zeros ||= isZeros(bytes);
        return zeros && left-- <= 0;
      });
    },
  },
  {
    name: "while all is well",
    sync: 0,
    async live(pole, random) {
      await pole.untilHeldMore(1);
      await cutSoon(pole.gateway.disk, random, 40);
    },
  },
  {
    name: "on a backlog of which each batch is synced",
    sync: 0,
    backlog: true,
    async live(pole, random) {
      await pole.untilHeldMore(1);
      pole.machine.link(false);
      await pole.untilOnFlash(between(random, 5, 20));
      await cutSoon(pole.gateway.disk, random, 40);
    },
  },
  {
    name: "while it boots",
    sync: 2,
    // The first writes are ext4's, which replays its journal, then come the agent's.
    live(pole, random) {
      pole.machine.link(false);
      return cutSoon(pole.gateway.disk, random, 12);
    },
  },
];

scenario(
  `two gateways whose power is cut ${CUTS} times under load`,
  async (site) => {
    console.log(`the same again: ${AGAIN}`);
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
            await pole.live(SEED + Math.floor(cut / poles.length) + index);
          }
          if (failures.length === 0) await pole.drain();
        } catch (error) {
          // The other one is not left in the middle of something.
          failures.push(error);
        }
      }),
    );
    if (failures.length > 0) {
      throw new AggregateError(failures, `${failures.map(String).join("\n")}\nThe same again: ${AGAIN}`);
    }
    const all = { unacknowledged: 0, lost: 0 };
    for (const pole of poles) {
      const { streams, batches, readings } = pole.check();
      const { cuts, cached, lost, torn, unacknowledged, taken, oldest, gone } = pole.seen;
      const times = pole.times.sort((a, b) => a - b);
      console.log(
        `${pole.device}: ${Object.entries(cuts)
          .map(([name, count]) => `${count} ${name}`)
          .join(", ")}. ` +
          `In the disk's cache ${cached} writes, ${lost} of them lost and ${torn} torn; ${unacknowledged} times a batch was on flash and not in Kafka. ` +
          `The cuts took ${taken} closed batches, the oldest ${oldest.toFixed(1)} s old; ${gone} loss records for what a torn write had. ` +
          `${streams} streams, ${batches} batches, ${readings} readings in Kafka; lost 0, repeated 0. ` +
          `From power-on to a reading in Kafka: ${times[0]} to ${times.at(-1)} s, half within ${times[times.length >> 1]} s (TCG)`,
      );
      pole.checkTook();
      all.unacknowledged += unacknowledged;
      all.lost += lost + torn;
    }
    if (CUTS >= MANY) {
      assert.ok(all.unacknowledged >= CUTS, "the cuts came when something was at stake");
      assert.ok(all.lost > 0, "the disks lost something");
    }
  },
  { limit: 900_000 + CUTS * 90_000 },
);
