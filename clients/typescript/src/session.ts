/** One WebSocket, from its opening to its end. What outlives it (subscriptions, backoff) is connection.ts. */

import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { ConnectionError, staleError } from "./errors.js";
import { type Frame, readFrame } from "./frame.js";
import { ClientFrameSchema, type ServerFrame } from "./gen/headwater/v1/live_pb.js";
import type { ConnectOptions, Stats, WebSocketConstructor, WebSocketLike } from "./options.js";
import { AckWindow, type Amount } from "./window.js";

/** Must match package.json; a test holds them together. */
export const VERSION = "0.1.0";

type Outgoing = NonNullable<MessageInitShape<typeof ClientFrameSchema>["frame"]>;
export type Control = Exclude<Frame, { case: "data" | "latest" | "presence" | "series" | "gap" | "pong" }>;
export type Counted = Extract<Frame, { case: "data" | "latest" | "presence" | "series" | "gap" }>;
export type Welcome = Extract<ServerFrame["frame"], { case: "welcome" }>["value"];

export interface SessionHooks {
  control(frame: Control): void;
  /** `done` is to be called once, when the frame is handled. */
  counted(frame: Counted, done: () => void): void;
  unreadable(error: Error): void;
  ended(error: ConnectionError): void;
}

const COUNTED = new Set<string>(["data", "latest", "presence", "series", "gap"]);

export class Session {
  readonly window: AckWindow;
  private readonly socket: WebSocketLike;
  private readonly hooks: SessionHooks;
  private readonly options: ConnectOptions;
  private over = false;
  private paused = false;
  private messages = 0;
  private bytes = 0;
  private acks = 0;
  private wire: Stats["wire"] = null;
  private nonce = 0n;
  private pings = new Map<bigint, number>();
  private trips: { roundTripMs: number; offsetMs: number }[] = [];
  private lastHeard = performance.now();
  private ackTimer: ReturnType<typeof setTimeout> | null = null;
  private pingTimer: ReturnType<typeof setTimeout> | null = null;

  constructor(make: WebSocketConstructor, options: ConnectOptions, token: string, hooks: SessionHooks) {
    this.options = options;
    this.hooks = hooks;
    this.window = new AckWindow({
      frames: options.window?.frames ?? 256,
      bytes: options.window?.bytes ?? 4 * 1024 * 1024,
    });
    const socket = new make(options.url, ["headwater.v1"]);
    this.socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      const { frames, bytes } = this.window.size;
      this.send({
        case: "hello",
        value: { client: `@headwater/client ${VERSION}`, token, window: { frames, bytes: BigInt(bytes) } },
      });
      // The handshake is watched like everything else: a relay that never answers is a stale connection.
      this.ping();
    };
    socket.onmessage = (event: { data: unknown }) => this.receive(event.data);
    socket.onclose = (event: { code: number; reason: string }) =>
      this.end(new ConnectionError(event.code, String(event.reason)));
    // A close event follows always; it says more.
    socket.onerror = () => {};
    this.schedulePing(options.staleMs ?? 10_000);
  }

  send(frame: Outgoing): void {
    if (this.over || this.socket.readyState !== 1) return;
    this.socket.send(toBinary(ClientFrameSchema, create(ClientFrameSchema, { frame })));
  }

  get compressed(): boolean {
    return this.socket.extensions.includes("permessage-deflate");
  }

  /** Welcome came: the window is what the server made of it. */
  welcome(welcome: Welcome): void {
    if (welcome.window) {
      this.window.size = { frames: welcome.window.frames, bytes: Number(welcome.window.bytes) };
    }
  }

  /** Closes the window, or opens it again, without leaving. */
  pause(paused: boolean): void {
    this.paused = paused;
    this.ack();
  }

  stats(connections: number): Stats {
    const best = this.trips.reduce((a, b) => (b.roundTripMs < a.roundTripMs ? b : a), this.trips[0]);
    return {
      frames: this.window.received.frames,
      messages: this.messages,
      bytes: this.bytes,
      wire: this.wire,
      unacked: this.window.unacked(),
      window: { ...this.window.size },
      acks: this.acks,
      roundTripMs: this.trips.at(-1)?.roundTripMs ?? null,
      clockOffsetMs: best?.offsetMs ?? null,
      compressed: this.compressed,
      connections,
    };
  }

  close(code = 1000): void {
    if (this.over) return;
    this.stop();
    this.socket.close(code);
  }

  private receive(data: unknown): void {
    if (this.over) return;
    this.lastHeard = performance.now();
    if (!(data instanceof ArrayBuffer)) {
      this.socket.close(1003);
      return;
    }
    const length = data.byteLength;
    let frame: Frame | null;
    try {
      frame = readFrame(new Uint8Array(data));
    } catch (error) {
      // Whether it was a counted frame is not known for sure, so neither is the window: begin anew.
      this.hooks.unreadable(error as Error);
      this.socket.close(4400, "unreadable frame");
      this.end(new ConnectionError(1007, (error as Error).message));
      return;
    }
    if (frame?.case === "pong") {
      this.pong(frame.value);
    }
    this.messages += 1;
    this.bytes += length;
    if (!frame || frame.case === "pong") return;
    if (COUNTED.has(frame.case)) {
      this.window.receive(length);
      this.hooks.counted(frame as Counted, () => this.handled(length));
    } else {
      this.hooks.control(frame as Control);
    }
  }

  private handled(length: number): void {
    if (this.over) return;
    const now = performance.now();
    this.window.handle(length, now);
    const due = this.window.dueIn(now);
    if (due === null || this.ackTimer !== null) {
      if (due === 0) this.ack();
      return;
    }
    // A hidden page's timers may sleep for a minute; its messages do not.
    if (due === 0 || globalThis.document?.hidden) this.ack();
    else this.ackTimer = setTimeout(() => this.ack(), due);
  }

  private ack(): void {
    if (this.ackTimer !== null) clearTimeout(this.ackTimer);
    this.ackTimer = null;
    const { frames, bytes } = this.window.take();
    const window: Amount = this.paused ? { frames: 0, bytes: 0 } : this.window.size;
    this.acks += 1;
    this.send({
      case: "ack",
      value: {
        framesTotal: BigInt(frames),
        bytesTotal: BigInt(bytes),
        window: { frames: window.frames, bytes: BigInt(window.bytes) },
      },
    });
  }

  private ping(): void {
    this.nonce += 1n;
    this.pings.set(this.nonce, Date.now());
    this.send({ case: "ping", value: { nonce: this.nonce } });
    // The first answers come quickly, so that latencies can be shown soon.
    const every = this.options.pingMs ?? 10_000;
    this.schedulePing(this.nonce < 4n ? Math.min(1000, every) : every);
  }

  private schedulePing(ms: number): void {
    if (this.pingTimer !== null) clearTimeout(this.pingTimer);
    this.pingTimer = setTimeout(() => {
      const silent = performance.now() - this.lastHeard;
      if (this.pings.size > 0 || this.socket.readyState === 0) {
        const stale = this.options.staleMs ?? 10_000;
        if (silent >= stale) {
          this.end(staleError(silent));
          return;
        }
        // Not yet: look again when it would be.
        this.schedulePing(Math.max(50, stale - silent));
        return;
      }
      this.ping();
    }, ms);
  }

  private pong(pong: { nonce: bigint; timeUs: bigint; wireBytes: bigint }): void {
    const sent = this.pings.get(pong.nonce);
    this.pings.clear();
    if (pong.wireBytes > 0n) this.wire = { bytes: Number(pong.wireBytes), decoded: this.bytes };
    if (sent === undefined) return;
    const roundTripMs = Date.now() - sent;
    const offsetMs = Number(pong.timeUs) / 1000 - (sent + roundTripMs / 2);
    this.trips.push({ roundTripMs, offsetMs });
    if (this.trips.length > 12) this.trips.shift();
  }

  private end(error: ConnectionError): void {
    if (this.over) return;
    this.stop();
    try {
      this.socket.close();
    } catch {
      // It is closed or was never open: nothing to do.
    }
    this.hooks.ended(error);
  }

  private stop(): void {
    this.over = true;
    if (this.ackTimer !== null) clearTimeout(this.ackTimer);
    if (this.pingTimer !== null) clearTimeout(this.pingTimer);
    this.socket.onmessage = null;
    this.socket.onclose = null;
  }
}
