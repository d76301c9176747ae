/**
 * Gateways whose power is cut while a new version of the agent arrives: whole machines in qemu with disks whose cache the cut empties
 * (harness/disk.js), as in power.test.js; the agent as it ships, and the same program as of later versions, signed, and sent by `headwater-relay fleet update`,
 * under traffic. Every second one is mute: its topics are none that a relay knows, so it has to give way to the one before, by itself.
 *
 * Two gateways at a time, as power.test.js has them; one begins with an update that holds, one with a mute one. Each update is cut at all of PHASES, or at
 * some that are drawn where fewer cuts are left: the disk itself sees how far the update is by what is written to it, and stops at one of the
 * requests that come then. Where it waits for the network, the cable is pulled before for every second cut, so that batches wait on flash. Once it is over
 * the power is cut again.
 *
 * What counts. After each cut the disk is looked at from outside: ext4 and the agent's journal are whole, and so is the state of the slots; each program that
 * it says could be started has the sum that was signed; and it is no less than what the agent had told. Then the old version or the new one runs, whichever
 * the state says. Each batch that stands on flash is promised: at the end Kafka holds it, as data, and every stream from 1 on without hole and without
 * repeat. Until then, and of what the agent had told to be durable, each batch is on flash or in Kafka; and what is missing on flash between others is in
 * Kafka, since it had been acknowledged before it was to be written. At the end of each update its command tells how it has ended, the version that has to
 * runs, sends, and no other program is left in the slots.
 *
 * HEADWATER_CUTS: how many cuts, beside those after the updates (2). HEADWATER_SEED: what is drawn; each commit has another one, and the log says which.
 * HEADWATER_GATEWAY_AGENT: the program, unless scripts/cross has built it.
 */

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { between, drawing, seedOfCommit } from "./harness/drawing.js";
import { agent, Gateway } from "./harness/gateway.js";
import { Kafka } from "./harness/kafka.js";
import { RELEASES, TARGET } from "./harness/machine.js";
import { Mosquitto } from "./harness/mosquitto.js";
import { Relay } from "./harness/relay.js";
import { Releases } from "./harness/releases.js";
import { binaries, repository, scenario } from "./harness/site.js";
import { progress, stateIn, stateOf } from "./harness/slots.js";
import { Telemetry } from "./harness/telemetry.js";
import { Trace } from "./harness/trace.js";

const CUTS = Number(process.env.HEADWATER_CUTS ?? 2);
const SEED = Number(process.env.HEADWATER_SEED ?? seedOfCommit());
/** How to make the same cuts again, as far as a machine's time allows. */
const AGAIN = `HEADWATER_CUTS=${CUTS} HEADWATER_SEED=${SEED} node --test tests/e2e/power-updates.test.js`;
/** With so many cuts each phase has had one, and one of them has cost the disk something. */
const MANY = 20;
const LIMIT = 300_000;
const RELAY = join(binaries, "headwater-relay");
/** How long a version has: one that reaches the relay, on a machine that gets little of a processor, and one that never does. */
const WITHIN = { good: "3m", mute: "10s" };
const sensors = Trace.read(join(repository, "bench/data/sensors-1hz.csv"));

/**
 * When the power is cut: name; how far the update is by then at least (`progress` of slots.js); and whether it waits for the network then, so that batches
 * can gather without it.
 */
const PHASES = [
  ["as it begins", () => 0, true],
  ["while it downloads", (random) => 0.1 + 0.6 * random(), true],
  ["as it is whole", () => 1, false],
  ["as it goes on trial", () => 2, false],
  ["on trial", () => 3, true],
  ["as it ends", () => 4, true],
];
/** The power goes at one of so many requests that follow, or flushes, which would make something durable: then most is at stake. */
const REQUESTS = [0, 24];
const FLUSHES = [0, 8];
/** Where the cable is pulled, once so many batches wait on flash. */
const WAITING = [2, 20];

const load = (device, key) => ({
  device,
  batch: { readings: 80, age: "200ms" },
  uplink: { ack_timeout: "2s", keep_alive: "5s", backoff: { min: "200ms", max: "1s" } },
  journal: { max_bytes: "8 MiB", sync_after: "2s" },
  health: { interval: "0s" },
  update: { keys: [key], rate: "1 MiB" },
  source: [
    { type: "replay", path: "/etc/headwater/trace.csv", speed: 10, at_end: "stop", times: "original" },
  ],
});

/** The agent as it ships: its content, one character a byte, and its version. */
function shipped() {
  const text = readFileSync(agent, "latin1");
  return { text, version: new RegExp(`headwater-agent (\\d\\.\\d+\\.\\d+) ${TARGET}\n`).exec(text)[1] };
}

/** The same program as of the n-th version after it: its texts are altered, as long as they were, since a build of its own takes minutes. */
function successor({ text, version }, n, mute) {
  const major = Number(version[0]) + n;
  assert.ok(major <= 9, "no more versions of this length");
  const later = `${major}${version.slice(1)}`;
  let content = text.replaceAll(version, later);
  if (mute) {
    assert.ok(text.includes("hw1/"), "the topics' first level is in the program");
    content = content.replaceAll("hw1/", "hw0/");
  }
  return { version: later, content: Buffer.from(content, "latin1") };
}

/** One gateway's lives. */
class Pole {
  /** stream → the numbers that were found on its disk after a cut. */
  promised = new Map();
  seen = { cuts: {}, cached: 0, lost: 0, torn: 0, unacknowledged: 0, updated: 0, back: 0 };
  /** The state of the slots, as the last cut has left it. */
  state = {};
  /** How many updates there were. */
  updates = 0;

  static async make(site, parts, { device, mount, mute, seed }) {
    const pole = new Pole();
    Object.assign(pole, { site, device, mute, ...parts, random: drawing(seed) });
    pole.runs = parts.program.version;
    pole.gateway = await Gateway.make(site, {
      name: device,
      mount,
      settings: { load: load(device, parts.releases.public) },
      files: { "etc/headwater/trace.csv": sensors.path },
      random: pole.random,
      // Two programs, and what is spared for the journal.
      room: 32,
    });
    return pole;
  }

  get records() {
    return this.telemetry.of(this.device);
  }

  /** The numbers of a stream that Kafka holds as data. */
  held(stream) {
    return new Set(
      this.records.filter((record) => record.stream === stream && !record.loss).map(({ seq }) => seq),
    );
  }

  async boot() {
    this.machine = await this.gateway.powerOn({
      broker: this.mosquitto.port,
      releases: Number(new URL(this.releases.url).port),
      settings: "load",
      variables: { HEADWATER_AGENT_UPDATE__CONFIRM_WITHIN: WITHIN[this.mute ? "mute" : "good"] },
    });
  }

  /** It is a working agent, and the version that it has to be: it tells of itself, and what it sends arrives. */
  async works() {
    const before = this.records.length;
    await this.machine.untilTold(`${this.device} runs`, ({ version }) => version === this.runs, LIMIT);
    await this.machine.until(`more of ${this.device} comes`, () => this.records.length > before, LIMIT);
  }

  /** The next update, cut at so many of the phases, and how it ends. */
  async update(cuts) {
    const { mute, random } = this;
    const next = successor(this.program, ++this.updates, mute);
    const file = join(this.releases.folder, `${this.device}-${next.version}`);
    writeFileSync(file, next.content);
    const release = { ...this.releases.make(next.version, TARGET, file), url: RELEASES };
    Object.assign(this, { next, from: this.runs });
    const phases = [...PHASES];
    while (phases.length > cuts) phases.splice(Math.floor(random() * phases.length), 1);
    const command = ["fleet", "update", "--manifest", release.manifest, "--url", release.url];
    command.push("--device", this.device, "--config", this.relay.config);
    const known = () => promisify(execFile)(RELAY, [...command, "--dry-run"]);
    await this.machine.until("the relay knows it", known, LIMIT);
    // It is sent once the disk is ready to stop, and ends when the update does, however often the power goes.
    let power = this.cutAt(phases[0]);
    const pace = ["--every", "1s", "--timeout", "10m", "--within", "30m"];
    this.sent = this.site.start(`fleet-${this.device}`, RELAY, [...command, ...pace]);
    for (const [index, [name]] of phases.entries()) {
      await this.machine.until(`the power goes ${name}`, () => power.gone || power.idle(), LIMIT);
      await this.cut(name, power.pulled);
      await this.boot();
      if (index + 1 < phases.length) power = this.cutAt(phases[index + 1]);
    }
    this.runs = mute ? this.from : next.version;
    await this.machine.untilTold(
      `${this.device} is done with ${next.version}`,
      (status) => this.isOver(status),
      LIMIT,
    );
    this.seen[mute ? "back" : "updated"]++;
    await this.checkSent();
    await this.works();
    await this.cut("afterwards");
    this.mute = !mute;
    await this.boot();
    await this.works();
  }

  isOver({ version, update }) {
    const [runs, state] = this.mute ? [this.from, "failed"] : [this.next.version, "updated"];
    return version === runs && update.version === this.next.version && update.state === state;
  }

  /** `fleet update` has told how the update has ended. */
  async checkSent() {
    await this.machine.until("`fleet update` tells the end", () => this.sent.exited, LIMIT);
    const lines = this.sent.log().split("\n");
    const said = lines.filter((line) => !/ DEBUG /.test(line)).join("\n");
    const [code, end] = this.mute
      ? [3, /failed: rolled back: \S+ did not reach the relay within 10s: /]
      : [0, /1 updated/];
    assert.equal(this.sent.exited.code, code, said);
    assert.match(said, end);
  }

  /**
   * The power goes when the update has come as far as this, at one of the next requests or flushes. Where it waits for the network, for every second cut the
   * cable is pulled, and batches gather on flash; for every second other one the agent has told something by then.
   */
  cutAt([, far, waits]) {
    const { random, machine, next } = this;
    const least = far(random);
    const told = waits && random() < 0.5 ? 1 : 0;
    const pull = waits && random() < 0.5;
    const gather = between(random, ...WAITING);
    const atFlush = random() < 0.7;
    let left = between(random, ...(atFlush ? FLUSHES : REQUESTS));
    const ready = () => {
      if (!pull) return machine.told.length >= told;
      const stream = machine.told.at(-1)?.status.streams.at(-1);
      return stream !== undefined && stream.durable_seq - stream.first_seq >= gather;
    };
    const power = { gone: false, over: 0, pulled: false };
    let there = false;
    const moment = ({ bytes, flush, cached }) => {
      if (!there) {
        const state = stateIn(bytes);
        there = state !== undefined && progress(state, next.version) >= least;
        if (there && pull) {
          machine.link(false);
          power.pulled = true;
        }
      }
      return there && ready() && (!atFlush || (flush && cached > 0)) && left-- <= 0;
    };
    this.gateway.disk.cutAt(moment).then(() => {
      power.gone = true;
    });
    // Over, though this moment has not come: the cuts before were later than they had to be.
    power.idle = () => {
      if (there || !this.isOver(machine.told.at(-1)?.status ?? { update: {} })) return false;
      power.over ||= Date.now();
      return Date.now() - power.over > 2000;
    };
    return power;
  }

  async cut(name, unplugged = false) {
    const { machine, random } = this;
    const cut = `${this.device}, to ${this.next.version}, cut ${name}${unplugged ? ", unplugged" : ""}`;
    const mode = ["none", "some", "some", "some"][Math.floor(random() * 4)];
    const lost = await this.gateway.cut(mode);
    this.seen.cuts[name] = (this.seen.cuts[name] ?? 0) + 1;
    for (const [what, count] of Object.entries(lost)) this.seen[what] += count;
    this.checkLife(cut);
    const { streams, slots } = await this.gateway.found();
    const waiting = await this.checkJournal(cut, streams);
    this.seen.unacknowledged += waiting;
    this.state = stateOf(slots, this.next.content);
    this.checkSlots(cut);
    console.log(
      `${cut}: it is ${progress(this.state, this.next.version).toFixed(2)}; ${lost.cached} writes in the disk's cache, ${lost.lost} lost, ` +
        `${lost.torn} torn; ${waiting} batches on flash and not in Kafka; ${machine.told.length === 0 ? "nothing told" : `${machine.told[0].status.version} ran`}`,
    );
  }

  /** What the life before this cut has said: the program that ran is the one that the cut before had left, and nothing was amiss. */
  checkLife(cut) {
    const { current, next, trial } = this.state;
    const amiss =
      /EXT4-fs error|cannot be mounted|the agent ended|panic|not believed|slots cannot be|is not what was signed/;
    const log = this.machine.log();
    assert.doesNotMatch(log, amiss, cut);
    if (!this.mute) assert.doesNotMatch(log, /rolled back/, cut);
    const old = current?.version ?? this.program.version;
    // A download may have been all but over, and a mute one's time have passed.
    const first = next ? (trial && !this.mute ? [next.version] : [old, next.version]) : [old];
    const versions = this.machine.told.map(({ status }) => status.version);
    if (versions.length > 0)
      assert.ok(first.includes(versions[0]), `${cut}: ${versions[0]} ran, not ${first}`);
    for (const version of versions)
      assert.ok([old, this.next.version].includes(version), `${cut}: ${version}`);
  }

  /**
   * What stands in the agent's journal is promised; what was promised before, and what the agent had told of streams begun since, is there or in Kafka.
   * Returns how many batches there are that Kafka does not hold.
   */
  async checkJournal(cut, streams) {
    // What was acknowledged before the cut was in Kafka by then: from here on this process knows of it too.
    await this.telemetry.untilEnd(LIMIT);
    const least = new Map(this.promised);
    for (const { stream, durable_seq: last } of this.machine.told.flatMap(({ status }) => status.streams)) {
      // Of an older one it counts what a torn write had, and nobody was promised.
      if (!this.promised.has(stream))
        least.set(
          stream,
          Array.from({ length: last }, (_, at) => at + 1),
        );
    }
    for (const [stream, numbers] of least) {
      const [there, held] = [new Set(streams.get(stream)), this.held(stream)];
      const missing = [...numbers].filter((number) => !there.has(number) && !held.has(number));
      assert.deepEqual(missing, [], `${cut}: neither on flash nor in Kafka, of stream ${stream}`);
    }
    let waiting = 0;
    for (const [stream, numbers] of streams) {
      const [there, held] = [new Set(numbers), this.held(stream)];
      const promised = this.promised.get(stream) ?? new Set();
      for (let number = numbers[0]; number <= numbers.at(-1); number++) {
        if (there.has(number)) promised.add(number);
        else if (!held.has(number)) {
          // Of several batches in a write that was torn an earlier one can be gone where a later one is there.
          assert.ok(this.gateway.torn > 0, `${cut}: ${number} of ${stream} is gone, on flash are ${numbers}`);
          break;
        }
        if (!held.has(number)) waiting++;
      }
      this.promised.set(stream, promised);
    }
    return waiting;
  }

  /** The state of the slots is no less than what the agent had told. */
  checkSlots(cut) {
    const { version } = this.next;
    const far = progress(this.state, version);
    const said = this.machine.told.findLast(({ status }) => status.update.version === version)?.status.update;
    const least = {
      downloading: () => said.have / said.size,
      trying: () => 2,
      updated: () => 4,
      failed: () => 4,
    };
    if (said) assert.ok(far >= least[said.state](), `${cut}: it had said ${said.state}, and is ${far}`);
    if (far === 4) assert.equal(this.state.last.word, this.mute ? "failed" : "updated", cut);
  }

  /** All that was promised has come, once and in order. */
  async drain() {
    const missing = () =>
      [...this.promised].flatMap(([stream, numbers]) => {
        const held = this.held(stream);
        return [...numbers].filter((number) => !held.has(number)).map((number) => `${number} of ${stream}`);
      });
    const all = () => {
      const lacks = missing();
      if (lacks.length === 0) return true;
      throw new Error(`it lacks ${lacks.length}: ${lacks.slice(0, 5)}`);
    };
    await this.machine.until(`Kafka holds what ${this.device} had promised`, all, LIMIT);
    await this.gateway.cut("all");
    assert.deepEqual(missing(), []);
    // A loss record stands for what a torn write had, and nobody was promised.
    const mayLack = ({ stream, seq, loss }) =>
      this.gateway.torn > 0 &&
      ![...(this.promised.get(stream) ?? [])].some((number) => number >= seq && number <= loss.through);
    const streams = this.telemetry.checkReplays(this.device, sensors, mayLack);
    // What no state names is gone: this start has removed it.
    const { slots } = await this.gateway.found();
    const { current, next } = stateOf(slots, this.next?.content);
    assert.equal(next, undefined);
    const left = ["a", "b"].filter((slot) => existsSync(join(slots, slot)));
    assert.deepEqual(left, current ? [current.slot] : [], "programs in the slots");
    return streams;
  }
}

scenario(
  `two gateways whose power is cut ${CUTS} times as they are updated`,
  async (site) => {
    console.log(`the same again: ${AGAIN}`);
    const [kafka, mosquitto] = await Promise.all([Kafka.start(site), Mosquitto.start(site)]);
    const relay = await Relay.start(site, { kafka, mosquitto, part: "bridge" });
    const releases = await Releases.start(site);
    const parts = { mosquitto, relay, releases, program: shipped(), telemetry: new Telemetry(site, kafka) };
    const lives = ["own", "root"].map(async (mount, index) => {
      const device = `pole-${mount}`;
      const drawn = { mute: (SEED + index) % 2 === 1, seed: SEED * 2 + index };
      const pole = await Pole.make(site, parts, { device, mount, ...drawn });
      await pole.boot();
      await pole.works();
      for (let left = Math.ceil((CUTS - index) / 2); left > 0; left -= PHASES.length) await pole.update(left);
      const streams = await pole.drain();
      const { cuts, cached, lost, torn, unacknowledged, updated, back } = pole.seen;
      console.log(
        `${device}: ${Object.entries(cuts)
          .map(([name, count]) => `${count} ${name}`)
          .join(", ")}. ` +
          `In the disk's cache ${cached} writes, ${lost} of them lost and ${torn} torn; ${unacknowledged} times a batch was on flash and not in Kafka. ` +
          `${updated} updates held, ${back} went back; ${streams.length} streams, ${pole.records.length} batches in Kafka; lost 0, repeated 0`,
      );
      return pole.seen;
    });
    // The first that fails ends the other one: the site is closed.
    const seen = await Promise.all(lives).catch((error) => {
      throw new Error(`${error.message}\nThe same again: ${AGAIN}`, { cause: error });
    });
    if (CUTS < MANY) return;
    for (const [name] of PHASES)
      assert.ok(
        seen.some(({ cuts }) => cuts[name] > 0),
        `no cut ${name}`,
      );
    assert.ok(
      seen.some(({ lost, torn }) => lost + torn > 0),
      "the disks lost something",
    );
    assert.ok(
      seen.some(({ unacknowledged }) => unacknowledged > 0),
      "the cuts came when something was at stake",
    );
  },
  { limit: 600_000 + CUTS * 120_000 },
);
