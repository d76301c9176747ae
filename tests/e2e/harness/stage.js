/**
 * The live channel played from a script, and the built page beside it: for what a page has to show and real parts would take hours,
 * or an accident, to bring about. It speaks live.proto as it stands, ack window included; what is proved here is the page alone.
 */

import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join } from "node:path";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { WebSocketServer } from "ws";
import { batch, live } from "./contract.js";
import { repository } from "./site.js";

const TYPES = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml" };
/** command.proto's ReplyStatus. */
const STATUSES = ["UNSPECIFIED", "OK", "FAILED", "EXPIRED", "UNKNOWN_DEVICE", "UNKNOWN_COMMAND", "REFUSED"];
const DAY_MS = 86_400_000;
const LOST_MS = 12_000;
/** Readings are a second apart, in batches of so many. */
const PER_BATCH = 10;

export class Stage {
  /** Names → DevicePresence fields. */
  devices = new Map();
  commands = [];
  lines = new Set();
  /** Answers a command: { status, output }, or null for no answer. */
  answer = (command) => ({ status: "OK", output: `${command.name}: done` });
  /** Which readings are marked as suspect; they are 85 then. */
  suspect = (metric, time) => metric === "room.temperature" && Math.floor(time / 1000) % 47 === 0;
  /** The close code that a token gets; 0: it is welcome. */
  judge = () => 0;
  welcome = { mayCommand: true, subject: "stage" };
  /** Sends so much later, milliseconds. */
  delayMs = 0;
  /** So many devices have something new every second. */
  presence = { devices: 0 };
  /** Metrics of every device: name → [unit, value at a time and of a device's number]. */
  metrics = {
    "boiler.flow": ["Cel", (t, n) => 62 + n + 6 * Math.sin(t / 97e3) + Math.sin(t / 7e3) / 2],
    "boiler.return": ["Cel", (t, n) => 48 + n + 4 * Math.sin(t / 97e3 - 0.6) + Math.sin(t / 5e3) / 3],
    pressure: ["kPa", (t, n) => 180 - n + 9 * Math.sin(t / 211e3) + Math.sin(t / 3e3)],
    "pump.power": [
      "W",
      (t, n) => Math.max(0, 410 + 30 * n + 160 * Math.sign(Math.sin(t / 61e3)) + 8 * Math.sin(t / 2e3)),
    ],
    "room.temperature": ["Cel", (t, n) => 21 + n / 3 + Math.sin(t / 301e3) + 0.05 * Math.sin(t / 4e3)],
    "room.humidity": ["%", (t, n) => 44 - n + 5 * Math.sin(t / 401e3)],
  };

  static async start(site) {
    const stage = new Stage();
    site.onClose(() => stage.stop());
    await new Promise((resolve) => stage.http.listen(0, "127.0.0.1", resolve));
    return stage;
  }

  constructor() {
    this.begun = Date.now();
    this.http = createServer((request, response) => {
      const path = new URL(request.url, "http://stage").pathname;
      try {
        const file = path === "/" ? "/index.html" : path;
        const body = readFileSync(join(repository, "dashboard/dist", file));
        response.writeHead(200, { "content-type": TYPES[extname(file)] ?? "text/plain" }).end(body);
      } catch {
        response.writeHead(404).end();
      }
    });
    this.server = new WebSocketServer({ server: this.http, path: "/v1/live", perMessageDeflate: true });
    this.server.on("connection", (socket) => this.#accept(socket));
    this.timer = setInterval(() => this.#tick(), 1000);
  }

  get page() {
    return `http://127.0.0.1:${this.http.address().port}/`;
  }

  /** So many devices, a few of each kind of trouble among them. */
  populate(count, prefix = "unit") {
    const now = Date.now();
    for (let i = 0; i < count; i++) {
      const name = `${prefix}-${String(i).padStart(5, "0")}`;
      const odd = (i * 2_654_435_761) % 4_294_967_296;
      const online = odd % 41 !== 0;
      const waits = odd % 23 === 0;
      const silent = online ? (odd % 3) * 400 : 60_000 + (odd % DAY_MS);
      this.devices.set(name, {
        device: name,
        online,
        sinceUs: BigInt((now - silent) * 1000),
        lastSeenUs: BigInt((now - silent) * 1000),
        agent: {
          version: ["0.1.0", "0.1.0", "0.1.1", "0.2.0"][odd % 4],
          target: odd % 5 === 0 ? "armv7-unknown-linux-musleabihf" : "aarch64-unknown-linux-musl",
          hostname: `host-${i}`,
        },
        waiting: waits
          ? {
              batches: BigInt(odd % 300),
              readings: BigInt((odd % 300) * 40),
              bytes: BigInt(odd % 90_000),
              oldestUs: BigInt((now - (odd % 7_200_000)) * 1000),
            }
          : {},
        lostReadings: odd % 97 === 0 ? BigInt(odd % 5000) : 0n,
        readingsPerS: online ? 4 + (odd % 60) / 10 : 0,
        batchesPerS: online ? 0.5 : 0,
        lagUs: BigInt(30_000 + (odd % 60_000)),
      });
    }
  }

  /** Breaks all lines without a word, or closes them with a code. */
  break(code, reason = "") {
    for (const line of this.lines) code ? line.socket.close(code, reason) : line.socket.terminate();
  }

  /** Sends a frame that is not counted to all. */
  send(kind, value) {
    for (const line of this.lines) line.write(kind, value);
  }

  async stop() {
    clearInterval(this.timer);
    for (const line of this.lines) line.socket.terminate();
    this.server.close();
    this.http.closeAllConnections();
    await new Promise((resolve) => this.http.close(resolve));
  }

  #accept(socket) {
    const line = new Line(socket, this);
    socket.on("close", () => this.lines.delete(line));
    socket.on("error", () => {});
    socket.on("message", (bytes) => {
      const { frame } = fromBinary(live.ClientFrameSchema, bytes);
      line.take(frame);
    });
  }

  #tick() {
    for (const line of this.lines) line.tick();
  }

  value(device, metric, at) {
    return this.metrics[metric][1](at, Number(/\d+$/.exec(device)?.[0] ?? 0) % 7);
  }

  /** A device's readings of [from, to), milliseconds, as one batch or the record of their loss. */
  batch(device, from, to) {
    const n = Number(/\d+$/.exec(device)?.[0] ?? 0) % 7;
    const first = Math.ceil(from / 1000) * 1000;
    const count = Math.max(0, Math.ceil((to - first) / 1000));
    const fields = {
      device,
      stream: BigInt(Number(/\d+$/.exec(device)?.[0] ?? 0) + 7),
      seq: BigInt(Math.floor(first / 1000 / PER_BATCH)),
    };
    if (this.loss && first < this.loss.at + LOST_MS && to > this.loss.at) {
      return {
        ...fields,
        loss: {
          through: fields.seq,
          readings: BigInt(count * 6),
          reason: batch.LossReason.JOURNAL_FULL,
        },
      };
    }
    const at = Array.from({ length: count }, (_, i) => first + i * 1000);
    return {
      ...fields,
      times: [
        { first: BigInt(first), unitUs: 1000n, count, deltas: Array(Math.max(0, count - 1)).fill(1000n) },
      ],
      columns: Object.entries(this.metrics).map(([metric, [unit, value]]) => {
        const values = at.map((time) => value(time, n));
        const suspect = [];
        at.forEach((time, i) => {
          if (!this.suspect(metric, time)) return;
          values[i] = 85;
          suspect.push(i);
        });
        return { metric, unit, times: 0, values: { case: "doubles", value: { values } }, suspect };
      }),
    };
  }
}

/** One connection: its window and its subscriptions. */
class Line {
  sent = { frames: 0, bytes: 0 };
  acked = { frames: 0, bytes: 0 };
  window = { frames: 0, bytes: 0 };
  subscriptions = new Map();
  queue = [];

  constructor(socket, stage) {
    Object.assign(this, { socket, stage });
  }

  write(kind, value) {
    const frame = { case: kind, value };
    const bytes = toBinary(live.ServerFrameSchema, create(live.ServerFrameSchema, { frame }));
    const go = () => this.socket.readyState === 1 && this.socket.send(bytes);
    if (this.stage.delayMs > 0) setTimeout(go, this.stage.delayMs);
    else go();
    return bytes.length;
  }

  /** Sends counted frames as the window lets it. */
  count(kind, value) {
    this.queue.push([kind, value]);
    this.pump();
  }

  pump() {
    while (
      this.queue.length > 0 &&
      this.sent.frames - this.acked.frames < this.window.frames &&
      this.sent.bytes - this.acked.bytes < this.window.bytes
    ) {
      const [kind, value] = this.queue.shift();
      this.sent.bytes += this.write(kind, value);
      this.sent.frames += 1;
    }
  }

  take(frame) {
    switch (frame.case) {
      case "hello": {
        const code = this.stage.judge(frame.value.token);
        if (code !== 0) {
          this.socket.close(code, "the token has expired");
          return;
        }
        const { frames, bytes } = frame.value.window;
        this.window = { frames, bytes: Number(bytes) };
        this.stage.lines.add(this);
        this.write("welcome", {
          server: "stage",
          window: { frames, bytes },
          partitions: 4,
          timeUs: BigInt(Date.now() * 1000),
          ...this.stage.welcome,
        });
        break;
      }
      case "ack":
        this.acked = { frames: Number(frame.value.framesTotal), bytes: Number(frame.value.bytesTotal) };
        if (frame.value.window) {
          this.window = { frames: frame.value.window.frames, bytes: Number(frame.value.window.bytes) };
        }
        this.pump();
        break;
      case "ping":
        this.write("pong", {
          nonce: frame.value.nonce,
          timeUs: BigInt(Date.now() * 1000),
          wireBytes: BigInt(Math.round(this.sent.bytes * 0.4)),
        });
        break;
      case "subscribe":
        this.subscribe(frame.value);
        break;
      case "unsubscribe":
        this.subscriptions.delete(frame.value.id);
        break;
      case "command": {
        this.stage.commands.push(frame.value);
        const answer = this.stage.answer(frame.value);
        if (!answer) break;
        const { id, device } = frame.value;
        this.write("reply", {
          id,
          device,
          status: STATUSES.indexOf(answer.status),
          output: answer.output,
          repliedUs: BigInt(Date.now() * 1000),
        });
        break;
      }
    }
  }

  subscribe(request) {
    const { id, mode, devices, start } = request;
    if (this.stage.refuse) {
      this.write("error", { id, ...this.stage.refuse });
      return;
    }
    const positions = [0, 1, 2, 3].map((partition) => ({ partition, offset: 0n }));
    const from = start?.at.case === "timeUs" ? Number(start.at.value) / 1000 : Date.now();
    const subscription = {
      id,
      mode,
      names: devices.map(plain),
      filter: id,
      next: Math.floor(from / 10_000) * 10_000,
      offset: 0,
    };
    this.subscriptions.set(id, subscription);
    this.write("subscribed", { id, filter: id, cursor: { positions } });
    if (mode === live.Mode.PRESENCE) {
      const all = [...this.stage.devices.values()];
      for (let at = 0; at === 0 || at < all.length; at += 500) {
        const some = all.slice(at, at + 500);
        this.count("presence", {
          id,
          devices: some,
          snapshot: true,
          snapshotComplete: at + 500 >= all.length,
        });
      }
      return;
    }
    subscription.bucketMs = request.intervalMs || 1000;
    if (mode === live.Mode.SERIES) this.series(subscription, Date.now());
    else this.feed(subscription, Date.now());
    this.write("caughtUp", { id, cursor: { positions } });
  }

  feed(subscription, now) {
    const { stage } = this;
    while (subscription.next < now - 300) {
      const from = subscription.next;
      const to = Math.min(now, from + PER_BATCH * 1000);
      subscription.next = to;
      if (stage.gap && from >= stage.gap.from && from < stage.gap.to) continue;
      for (const device of subscription.names) {
        const made = create(batch.BatchSchema, stage.batch(device, from, to));
        this.count("data", {
          filter: subscription.filter,
          partition: 0,
          offset: BigInt(subscription.offset++),
          arrivalUs: BigInt(to * 1000),
          batch: toBinary(batch.BatchSchema, made),
        });
      }
    }
  }

  tick() {
    const now = Date.now();
    for (const subscription of this.subscriptions.values()) {
      if (subscription.mode === live.Mode.ALL) this.feed(subscription, now);
      else if (subscription.mode === live.Mode.SERIES) this.series(subscription, now);
      else if (subscription.mode === live.Mode.PRESENCE) this.presence(subscription, now);
    }
  }

  /** What has come since, in buckets; what a bucket had before is not told again. */
  series(subscription, now) {
    const { stage } = this;
    const widthMs = subscription.bucketMs * (stage.widened ?? 1);
    const columns = [];
    for (const device of subscription.names) {
      for (const [metric, [unit]] of Object.entries(stage.metrics)) {
        const buckets = new Map();
        for (let at = subscription.next; at < now; at += 1000) {
          if (stage.gap && at >= stage.gap.from && at < stage.gap.to) continue;
          const value = stage.value(device, metric, at);
          const start = Math.floor(at / widthMs) * widthMs;
          const was = buckets.get(start) ?? { min: value, max: value, count: 0 };
          buckets.set(start, {
            min: Math.min(was.min, value),
            max: Math.max(was.max, value),
            last: value,
            lastUs: BigInt((at - start) * 1000),
            count: was.count + 1,
          });
        }
        if (buckets.size === 0) continue;
        const [first] = buckets.keys();
        const all = [...buckets.values()];
        columns.push({
          device,
          metric,
          unit,
          startUs: BigInt(first * 1000),
          bucketUs: BigInt(widthMs * 1000),
          bucket: [...buckets.keys()].map((start) => (start - first) / widthMs),
          ...Object.fromEntries(
            ["min", "max", "last", "lastUs", "count"].map((name) => [name, all.map((each) => each[name])]),
          ),
        });
      }
    }
    subscription.next = Math.ceil(now / 1000) * 1000;
    if (columns.length > 0) this.count("series", { id: subscription.id, columns, merged: columns.length });
  }

  /** So many devices have something new. */
  presence({ id }, now) {
    const all = [...this.stage.devices.values()];
    const some = all.slice(0, this.stage.presence.devices);
    for (const device of some) {
      if (!device.online) continue;
      device.lastSeenUs = BigInt(now * 1000);
      device.readingsPerS = 4 + Math.random() * 6;
    }
    for (let at = 0; at < some.length; at += 500)
      this.count("presence", { id, devices: some.slice(at, at + 500) });
  }
}

/** A glob that matches one name, as that name. */
function plain(glob) {
  return glob.replace(/\[(.)\]/g, "$1");
}
