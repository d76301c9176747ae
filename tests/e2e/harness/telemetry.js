import assert from "node:assert/strict";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { python, repository } from "./site.js";
import { GivenUp, until } from "./until.js";

/** What Kafka holds, as an independent client sees it: kafka-python, and code that protoc generated for Python. */
export class Telemetry {
  records = [];
  /** How often it was asked to read to the end, and for which of these it has. */
  #asked = 0;
  #reached = 0;

  /** `isolation`: whether records of open and aborted transactions are seen. */
  constructor(site, kafka, { topic = "headwater.telemetry", isolation = "read_committed" } = {}) {
    const script = join(repository, "tests/e2e/python/telemetry.py");
    const args = [script, kafka.bootstrap, topic, isolation];
    this.program = site.start("telemetry", python, args, { stdin: "pipe", stdout: "pipe" });
    this.program.child.stdin.on("error", () => {});
    createInterface({ input: this.program.child.stdout }).on("line", (line) => {
      const record = JSON.parse(line);
      if (record.ready) this.ready = record;
      else if (record.reached) this.#reached = record.reached;
      else this.records.push(record);
    });
  }

  of(device) {
    return this.records.filter((record) => record.device === device);
  }

  count(device) {
    let count = 0;
    for (const record of this.of(device)) {
      for (const column of Object.values(record.columns)) count += column.readings.length;
    }
    return count;
  }

  /** Waits until Kafka holds at least this many readings of the device. */
  async untilCount(device, count, limit = 60_000) {
    await until(
      `Kafka holds ${count} readings of ${device}`,
      () => {
        if (this.program.exited) throw new GivenUp("the Kafka reader ended");
        if (this.count(device) >= count) return true;
        throw new Error(`it holds ${this.count(device)} in ${this.of(device).length} records`);
      },
      limit,
    );
  }

  /** Waits until all is read that Kafka holds by now, what is part of an open transaction too. */
  async untilEnd(limit = 240_000) {
    const asked = ++this.#asked;
    this.program.child.stdin.write("\n");
    await this.program.ready("all that Kafka holds is read", () => this.#reached >= asked, limit);
  }

  /**
   * Every stream of the device starts at 1 and goes on without hole or repeat, in one partition, and the headers say
   * what the batch says. Returns the ids of the streams.
   */
  checkChain(device) {
    const next = new Map();
    for (const record of this.of(device)) {
      const at = `partition ${record.partition}, offset ${record.offset}`;
      assert.equal(record.key, device, at);
      assert.equal(record.partition, this.of(device)[0].partition, "one device, one partition");
      assert.equal(record.headers["hw-stream"], record.stream, at);
      assert.equal(record.headers["hw-seq"], String(record.seq), at);
      assert.equal(record.headers["hw-through"], record.loss && String(record.loss.through), at);
      assert.equal(
        record.seq,
        next.get(record.stream) ?? 1,
        `${at}: the next seq of stream ${record.stream}`,
      );
      next.set(record.stream, (record.loss?.through ?? record.seq) + 1);
    }
    return [...next.keys()];
  }

  /**
   * An agent that began with the trace in each of its runs: each stream has the trace's first readings, in order, bit for bit. Nothing was given up but
   * what `mayLack(record)` allows. Returns the ids of the streams.
   */
  checkReplays(device, trace, mayLack = () => false) {
    const streams = new Map(this.checkChain(device).map((stream) => [stream, {}]));
    const ended = new Set();
    for (const record of this.of(device)) {
      if (record.loss) {
        assert.ok(mayLack(record), `a loss record of ${device} at ${record.seq} of ${record.stream}`);
        ended.add(record.stream);
      }
      // The readings behind it are no longer the trace's first ones.
      if (ended.has(record.stream)) continue;
      const held = streams.get(record.stream);
      for (const [metric, column] of Object.entries(record.columns)) {
        if (metric.startsWith("agent.")) continue;
        held[metric] ??= [];
        held[metric].push(...column.readings);
      }
    }
    for (const [stream, held] of streams) {
      for (const [metric, found] of Object.entries(held)) {
        const expected = trace.readings[metric].slice(0, found.length);
        assert.equal(String(found), String(expected), `${metric} of stream ${stream} of ${device}`);
      }
    }
    return [...streams.keys()];
  }

  /** metric → all its readings, in the order of the log. */
  readings(device) {
    const all = {};
    for (const record of this.of(device)) {
      for (const [metric, column] of Object.entries(record.columns)) {
        all[metric] ??= [];
        all[metric].push(...column.readings);
      }
    }
    return all;
  }

  /** Kafka holds the trace's readings, each once, in order, bit for bit, and nothing else of this device. */
  checkEquals(device, trace) {
    this.checkChain(device);
    const held = this.readings(device);
    assert.deepEqual(Object.keys(held).sort(), Object.keys(trace.readings).sort());
    for (const [metric, expected] of Object.entries(trace.readings)) {
      const index = expected.findIndex((reading, at) => String(reading) !== String(held[metric][at]));
      assert.equal(
        index,
        -1,
        `${metric}, reading ${index}: ${held[metric][index]} instead of ${expected[index]}`,
      );
      assert.equal(held[metric].length, expected.length, `number of readings of ${metric}`);
    }
  }
}
