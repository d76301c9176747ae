import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import WebSocket from "ws";
import { readings } from "./batch.js";
import { batch, live } from "./contract.js";
import { GivenUp, until } from "./until.js";

const COUNTED = new Set(["data", "latest", "series", "presence", "gap"]);

/** A client of the live channel on `ws`, as plain as can be: it keeps all it receives in `frames`. */
export class Live {
  frames = [];
  /** Called with each frame as it comes, if set. */
  onFrame;
  framesTotal = 0;
  bytesTotal = 0;

  /** Connects; with `hello` (a ClientHello's fields, or false to send none) and without waiting for the answer. */
  static async open(
    site,
    url,
    { hello = {}, protocols = ["headwater.v1"], deflate = true, acks = true } = {},
  ) {
    const client = new Live(new WebSocket(url, protocols, { perMessageDeflate: deflate }), acks);
    site.onClose(() => client.socket.terminate());
    await client.opened;
    if (hello)
      client.send("hello", {
        client: "headwater-e2e (ws)",
        window: { frames: 16, bytes: 1n << 20n },
        ...hello,
      });
    return client;
  }

  constructor(socket, acks) {
    this.socket = socket;
    this.acks = acks;
    this.opened = new Promise((resolve, reject) => socket.once("open", resolve).once("error", reject));
    this.closed = new Promise((resolve) => {
      socket.once("close", (code, reason) => resolve({ code, reason: reason.toString() }));
    });
    this.closed.then((closed) => {
      this.close = closed;
    });
    socket.on("error", () => {});
    socket.on("message", (bytes) => this.#take(bytes));
  }

  send(kind, fields) {
    this.socket.send(
      toBinary(
        live.ClientFrameSchema,
        create(live.ClientFrameSchema, { frame: { case: kind, value: fields } }),
      ),
    );
  }

  subscribe({ id = 1, mode = "ALL", start, ...fields } = {}) {
    this.send("subscribe", { id, mode: live.Mode[mode], start: start && { at: start }, ...fields });
  }

  ack(framesTotal = this.framesTotal, bytesTotal = this.bytesTotal, window = undefined) {
    this.send("ack", { framesTotal: BigInt(framesTotal), bytesTotal: BigInt(bytesTotal), window });
  }

  of(kind) {
    return this.frames.filter((frame) => frame.case === kind).map((frame) => frame.value);
  }

  /** Waits for a frame of this kind, and gives up when the relay closes. */
  async next(kind, limit) {
    await this.until(`the relay sends ${kind}`, () => this.of(kind).length > 0, limit);
    return this.of(kind)[0];
  }

  async until(what, check, limit) {
    await until(
      what,
      () => {
        if (check()) return true;
        if (this.close)
          throw new GivenUp(`the relay closed with ${this.close.code} ${this.close.reason} before ${what}`);
        return false;
      },
      limit,
    );
  }

  #take(bytes) {
    const { frame } = fromBinary(live.ServerFrameSchema, bytes);
    if (frame.case === "data")
      frame.value.decoded = decoded(fromBinary(batch.BatchSchema, frame.value.batch));
    if (frame.case === "latest") frame.value.decoded = frame.value.batches.map(decoded);
    this.frames.push(frame);
    this.onFrame?.(frame);
    if (!COUNTED.has(frame.case)) return;
    this.framesTotal += 1;
    this.bytesTotal += bytes.length;
    // One ack for all frames that came together.
    if (this.acks && !this.timer) {
      this.timer = setTimeout(() => {
        this.timer = undefined;
        if (this.socket.readyState === WebSocket.OPEN) this.ack();
      }, 5);
    }
  }
}

function decoded(message) {
  return {
    device: message.device,
    stream: message.stream.toString(16).padStart(16, "0"),
    seq: Number(message.seq),
    columns: readings(message),
  };
}
