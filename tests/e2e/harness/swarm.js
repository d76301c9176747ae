import { connect } from "node:net";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import mqttPacket from "mqtt-packet";
import { batch, link } from "./contract.js";
import { control, ENVELOPE, oneSeries, varint } from "./device.js";
import { topic } from "./shard.js";

const SHORT = 1;

/**
 * Thousands of devices over a few connections, each with one stream and a window, going back as link.proto wants it. `start` with
 * `rate`: batches a second of each device, or Infinity: as many as its window allows.
 */
export class Swarm {
  /** By name: { stream, sent, acked, total, answered, saidAt, progressAt }. */
  devices = new Map();
  disconnections = 0;
  sentBatches = 0;
  resentBatches = 0;
  /** Batches acknowledged, by second since the swarm was made. */
  perSecond = [];
  /** Milliseconds from a batch's first sending to its acknowledgement; of one device in a hundred. */
  delays = [];
  #connections = [];
  #timer;
  #due = new Map();

  static async connect(site, mosquitto, options) {
    const swarm = new Swarm(mosquitto, options);
    site.onClose(() => swarm.close());
    await swarm.#dial();
    return swarm;
  }

  /** `readings`: in a batch. `ackTimeout`, milliseconds: as an agent's `uplink.ack_timeout`. */
  constructor(
    mosquitto,
    { count, connections = 8, readings = 10, window = 8, ackTimeout = 10_000, prefix = "unit" },
  ) {
    Object.assign(this, { mosquitto, size: connections, window, ackTimeout, begun: performance.now() });
    for (let index = 0; index < count; index++) {
      const name = `${prefix}-${String(index).padStart(5, "0")}`;
      const stream = (BigInt(index + 1) << 32n) | BigInt(Math.floor(Math.random() * 2 ** 32));
      this.devices.set(name, { name, index, stream, sent: 0, highest: 0, acked: 0, total: 0, answered: 0 });
      for (const kind of ["data", "hello", "series"]) this.devices.get(name)[kind] = topic(name, kind);
    }
    const times = { first: 1n, count: readings, deltas: Array(readings - 1).fill(1n) };
    const values = Array.from({ length: readings }, (_, at) => at / 8);
    const body = create(batch.BatchSchema, {
      times: [times],
      columns: [{ times: 0, series: 0, values: { case: "doubles", value: { values } } }],
    });
    const set = oneSeries();
    this.series = control(link.SeriesSetSchema, set);
    const hash = Buffer.alloc(4);
    hash.writeUInt32LE(set.hash);
    this.body = Buffer.concat([hash, toBinary(batch.BatchSchema, body)]);
  }

  async #dial() {
    const all = Array.from({ length: this.size + 1 }, (_, index) => this.#connection(index));
    this.#connections = await Promise.all(all);
    this.#timer = setInterval(() => this.#look(), 100);
  }

  async #connection(index) {
    const socket = connect({ port: this.mosquitto.port, host: "127.0.0.1", noDelay: true });
    await new Promise((resolve, reject) => socket.once("connect", resolve).once("error", reject));
    const parser = mqttPacket.parser({ protocolVersion: 4 });
    const send = (packet) => socket.write(mqttPacket.generate(packet, { protocolVersion: 4 }));
    const ready = new Promise((resolve) => {
      parser.on("packet", (packet) => {
        if (packet.cmd === "publish") this.#ack(packet);
        else if (packet.cmd === "suback") resolve();
        else if (packet.cmd === "connack") {
          // The last one listens, for all.
          if (index < this.size) return resolve();
          const subscriptions = [{ topic: "hw1/+/+/ack", qos: 0 }];
          send({ cmd: "subscribe", messageId: 1, subscriptions });
        }
      });
    });
    socket.on("data", (bytes) => parser.parse(bytes));
    socket.on("error", () => {});
    socket.on("close", () => {
      if (!this.closed) this.disconnections++;
    });
    const ping = setInterval(() => send({ cmd: "pingreq" }), 20_000);
    socket.on("close", () => clearInterval(ping));
    send({
      cmd: "connect",
      clientId: `swarm-${index}-${this.begun}`,
      clean: true,
      keepalive: 60,
      protocolId: "MQTT",
      protocolVersion: 4,
    });
    await ready;
    return { socket, send, messageId: 0 };
  }

  /** Connects anew what is not connected, after the broker was away. */
  async reconnect() {
    for (const { socket } of this.#connections) socket.destroy();
    clearInterval(this.#timer);
    await this.#dial();
    for (const device of this.devices.values()) device.answered = 0;
  }

  /** All say hello, at once; each batch is sent only once its hello is answered. */
  hello() {
    for (const device of this.devices.values()) this.#hello(device);
  }

  #hello(device) {
    const connection = this.#connections[device.index % this.size];
    const streams = [
      {
        stream: device.stream,
        short: SHORT,
        firstSeq: BigInt(device.acked + 1),
        lastSeq: BigInt(device.total),
        ackedSeq: BigInt(device.acked),
      },
    ];
    device.session ??= BigInt(device.index + 1);
    const hello = create(link.HelloSchema, {
      session: device.session,
      streams,
      agent: { version: "swarm", process: device.session },
    });
    this.#keep(connection, device.series, this.series);
    this.#keep(connection, device.hello, control(link.HelloSchema, hello));
    device.saidAt ??= performance.now();
    device.helloAt = performance.now();
  }

  #keep(connection, topic, payload) {
    connection.messageId = (connection.messageId % 65_535) + 1;
    connection.send({
      cmd: "publish",
      topic,
      payload,
      qos: 1,
      retain: true,
      messageId: connection.messageId,
    });
  }

  /** One more batch of each device, now; it goes out when the window lets it. */
  sample(devices = this.devices.values()) {
    for (const device of devices) {
      device.total++;
      this.#send(device);
    }
  }

  #send(device) {
    if (!device.answered) return;
    const connection = this.#connections[device.index % this.size];
    while (device.sent < device.total && device.sent - device.acked < this.window) {
      // What the network does not take waits in the device, as with an agent.
      if (connection.socket.writableLength > 1 << 20) return;
      device.sent++;
      if (device.sent === device.acked + 1) device.progressAt = performance.now();
      const payload = Buffer.concat([Buffer.of(ENVELOPE, SHORT, ...varint(device.sent)), this.body]);
      connection.send({ cmd: "publish", topic: device.data, payload, qos: 0 });
      this.sentBatches++;
      if (device.sent <= device.highest) this.resentBatches++;
      else if (device.index % 100 === 0) this.#due.set(`${device.index}/${device.sent}`, performance.now());
      device.highest = Math.max(device.highest, device.sent);
    }
  }

  #ack(packet) {
    const device = this.devices.get(packet.topic.split("/")[2]);
    if (!device) return;
    const now = performance.now();
    const ack = fromBinary(link.AckSchema, packet.payload.subarray(1));
    if (ack.session === device.session && !device.answered) device.answered = now;
    for (const { stream, seq } of ack.positions) {
      const position = Number(seq);
      if (stream !== device.stream || position <= device.acked) continue;
      const second = Math.floor((now - this.begun) / 1000);
      this.perSecond[second] = (this.perSecond[second] ?? 0) + position - device.acked;
      if (device.index % 100 === 0) {
        for (let at = device.acked + 1; at <= position; at++) {
          const sent = this.#due.get(`${device.index}/${at}`);
          if (sent !== undefined) this.delays.push(now - sent);
          this.#due.delete(`${device.index}/${at}`);
        }
      }
      device.acked = position;
      device.progressAt = now;
      if (device.sent < position) device.sent = position;
    }
    if (ack.wantHello || ack.wantSeries.length > 0) this.#hello(device);
    if (ack.goBack || ack.session === device.session) device.sent = device.acked;
    this.#send(device);
  }

  /** What waits too long is sent again. */
  #look() {
    const now = performance.now();
    for (const device of this.devices.values()) {
      if (device.saidAt === undefined) continue;
      if (!device.answered) {
        if (now - device.helloAt > this.ackTimeout) this.#hello(device);
      } else if (device.sent > device.acked && now - device.progressAt > this.ackTimeout) {
        device.sent = device.acked;
        this.#send(device);
      } else if (device.sent < device.total) {
        this.#send(device);
      }
    }
  }

  /** How many have been answered, and what is not acknowledged yet. */
  get answered() {
    return [...this.devices.values()].filter((device) => device.answered).length;
  }

  get waiting() {
    return [...this.devices.values()].reduce((sum, device) => sum + device.total - device.acked, 0);
  }

  close() {
    this.closed = true;
    clearInterval(this.#timer);
    for (const { socket } of this.#connections) socket.destroy();
  }
}
