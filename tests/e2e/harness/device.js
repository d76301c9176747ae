import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import mqtt from "mqtt";
import { batch, link } from "./contract.js";
import { topic } from "./shard.js";
import { until } from "./until.js";

export const ENVELOPE = 0x10; // version 1, protobuf, plain

/**
 * A device that speaks the link as link.proto and frame.rs describe it, in code of its own, and breaks its rules where a
 * test wants that. One series, `value`, of doubles.
 */
export class Device {
  acks = [];

  static async connect(site, mosquitto, name, options = {}) {
    const client = await mqtt.connectAsync(mosquitto.url, { clientId: name, reconnectPeriod: 0, ...options });
    site.onClose(() => client.endAsync(true));
    const device = new Device(name, client);
    await client.subscribeAsync(topic(name, "ack"), { qos: 1 });
    return device;
  }

  constructor(name, client) {
    Object.assign(this, { name, client });
    this.set = oneSeries();
    client.on("message", (_, payload) => this.acks.push(fromBinary(link.AckSchema, payload.subarray(1))));
  }

  publish(kind, payload, options = { qos: 1 }) {
    return this.client.publishAsync(topic(this.name, kind), Buffer.from(payload), options);
  }

  /** `streams`: [{ stream, short, firstSeq, lastSeq, ackedSeq }], BigInt where the contract has 64 bits. */
  async introduce(streams, { session = 1n } = {}) {
    await this.publish("series", control(link.SeriesSetSchema, this.set), { qos: 1, retain: true });
    const hello = create(link.HelloSchema, { session, streams, agent: { version: "test" } });
    await this.publish("hello", control(link.HelloSchema, hello), { qos: 1, retain: true });
  }

  /** A data frame with one reading a value, at 1, 2, 3, … microseconds, or from `first` on. `deflate`: compresses the body. */
  frame(short, seq, values, { hash = this.set.hash, first = 1n, deflate } = {}) {
    const times = { first, count: values.length, deltas: values.slice(1).map(() => 1n) };
    const body = create(batch.BatchSchema, {
      times: [times],
      columns: [{ times: 0, series: 0, values: { case: "doubles", value: { values } } }],
    });
    const set = Buffer.alloc(4);
    set.writeUInt32LE(hash);
    const plain = toBinary(batch.BatchSchema, body);
    return Buffer.concat([
      Buffer.of(deflate ? ENVELOPE | 1 : ENVELOPE, ...varint(short), ...varint(seq)),
      set,
      deflate ? deflate(plain) : plain,
    ]);
  }

  /** A loss record that covers `seq` to `through`. */
  loss(short, seq, { through, readings }) {
    const reason = batch.LossReason.REFUSED;
    const body = create(batch.BatchSchema, {
      loss: { through: BigInt(through), readings: BigInt(readings), reason },
    });
    const head = Buffer.of(ENVELOPE, ...varint(short), ...varint(seq), 0, 0, 0, 0);
    return Buffer.concat([head, toBinary(batch.BatchSchema, body)]);
  }

  data(payload) {
    return this.publish("data", payload, { qos: 0 });
  }

  /** Waits until the relay has acknowledged the stream up to `seq`. */
  async acked(stream, seq) {
    const reached = () =>
      this.acks.some((ack) => ack.positions.some((at) => at.stream === stream && at.seq === BigInt(seq)));
    await until(`${this.name} is acknowledged up to ${seq}`, reached);
  }

  /** The greatest position of the stream in any ack so far. */
  position(stream) {
    let greatest = 0n;
    for (const at of this.acks.flatMap((ack) => ack.positions)) {
      if (at.stream === stream && at.seq > greatest) greatest = at.seq;
    }
    return greatest;
  }
}

export function control(schema, message) {
  return Buffer.concat([Buffer.of(ENVELOPE), toBinary(schema, message)]);
}

export function varint(value) {
  const bytes = [];
  let rest = BigInt(value);
  for (; rest > 0x7fn; rest >>= 7n) bytes.push(Number(rest & 0x7fn) | 0x80);
  return [...bytes, Number(rest)];
}

/** The set of one series, `value`, of doubles. */
export function oneSeries() {
  const entry = create(link.SeriesSchema, { metric: "value", type: link.ValueType.F64 });
  return create(link.SeriesSetSchema, { hash: hashOf("value", 0), series: [entry] });
}

/** FNV-1a as series.rs has it: salt, then each series' metric and unit behind their lengths, and its type (0: double). */
function hashOf(metric, type) {
  const length = (text) => [Buffer.byteLength(text), 0, 0, 0];
  const bytes = Buffer.from([0, 0, 0, 0, ...length(metric), ...Buffer.from(metric), ...length(""), type]);
  let hash = 0x811c9dc5;
  for (const byte of bytes) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  return Math.max(hash, 1);
}
