/** One WebSocket, from its opening to its end. What outlives it (subscriptions, backoff) is connection.ts. */

import type { Pong } from "./control.js";
import { ConnectionError, staleError } from "./errors.js";
import { type Control, type Counted, type Frame, readFrame } from "./frame.js";
import type { ConnectOptions, Stats, WebSocketConstructor, WebSocketLike } from "./options.js";
import { ack, hello, ping } from "./request.js";
import { AckWindow, type Amount } from "./window.js";

/** Must match package.json; a test holds them together. */
export const VERSION = "0.1.0";

export interface SessionHooks {
  control(frame: Control): void;
  /** `done` is to be called once, when the frame is handled. */
  counted(frame: Counted, done: () => void): void;
  unreadable(error: Error): void;
  ended(error: ConnectionError): void;
}

/** A message that the relay has told of may take so long per byte, and so long altogether. */
const MS_PER_BYTE = 2;
const LONGEST_MS = 120_000;

const COUNTED = new Set<string>(["data", "latest", "presence", "series", "gap"]);

/** The part of the figures that a session knows. */
export type Line = Pick<
  Stats,
  | "frames"
  | "messages"
  | "bytes"
  | "wire"
  | "unacked"
  | "window"
  | "acks"
  | "ackDelayMs"
  | "roundTripMs"
  | "clockOffsetMs"
  | "compressed"
>;

export class Session {
  readonly window: AckWindow;
  private readonly socket: WebSocketLike;
  private readonly hooks: SessionHooks;
  private readonly options: ConnectOptions;
  private over = false;
  /** What the server agreed to. */
  private agreed: Amount;
  /** Less than that, while the page is hidden or the connection paused; null: all of it. */
  private limit: Amount | null = null;
  private messages = 0;
  private bytes = 0;
  private acks = 0;
  private wire: Stats["wire"] = null;
  private nonce = 0;
  private pings = new Map<number, number>();
  private trips: { roundTripMs: number; offsetMs: number }[] = [];
  private lastHeard = performance.now();
  /** How much longer than usual the next message may take. */
  private patienceMs = 0;
  /** When the oldest frame came that is handled and not acknowledged. */
  private oldest: number | null = null;
  private ackDelayMs: number | null = null;
  private clockMs: number | null = null;
  private ackTimer: ReturnType<typeof setTimeout> | null = null;
  private pingTimer: ReturnType<typeof setTimeout> | null = null;

  constructor(
    make: WebSocketConstructor,
    url: string,
    options: ConnectOptions,
    token: string,
    hooks: SessionHooks,
  ) {
    this.options = options;
    this.hooks = hooks;
    this.agreed = {
      frames: options.window?.frames ?? 256,
      bytes: options.window?.bytes ?? 4 * 1024 * 1024,
    };
    this.window = new AckWindow(this.agreed);
    const socket = new make(url, ["headwater.v1"]);
    this.socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      this.send(hello(`@headwater/client ${VERSION}`, token, this.agreed));
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

  send(bytes: Uint8Array<ArrayBuffer>): void {
    if (this.over || this.socket.readyState !== 1) return;
    this.socket.send(bytes);
  }

  get compressed(): boolean {
    return this.socket.extensions.includes("permessage-deflate");
  }

  /** Welcome came: the window is what the server made of it. */
  welcome(window: Amount | null, timeUs: number): void {
    if (window) this.agreed = window;
    this.window.size = smaller(this.agreed, this.limit);
    // Late by the way here; the pings know better.
    this.clockMs = timeUs / 1000 - Date.now();
  }

  /** Makes the window smaller, or (null) as large as agreed, without leaving. */
  narrow(limit: Amount | null): void {
    const { frames, bytes } = this.window.size;
    this.limit = limit;
    this.window.size = smaller(this.agreed, limit);
    if (this.window.size.frames !== frames || this.window.size.bytes !== bytes) this.ack();
  }

  /** The server's clock minus this one's, milliseconds: from the quickest of the last pings, or from Welcome. */
  get clockOffsetMs(): number | null {
    const best = this.trips.reduce((a, b) => (b.roundTripMs < a.roundTripMs ? b : a), this.trips[0]);
    return best?.offsetMs ?? this.clockMs;
  }

  stats(): Line {
    return {
      frames: this.window.received.frames,
      messages: this.messages,
      bytes: this.bytes,
      wire: this.wire,
      unacked: this.window.unacked(),
      window: { ...this.window.size },
      acks: this.acks,
      ackDelayMs: this.ackDelayMs,
      roundTripMs: this.trips.at(-1)?.roundTripMs ?? null,
      clockOffsetMs: this.clockOffsetMs,
      compressed: this.compressed,
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
      this.pong(frame);
    }
    this.messages += 1;
    this.bytes += length;
    // At the slowest pace that is any use.
    this.patienceMs = frame?.case === "coming" ? Math.min(LONGEST_MS, frame.bytes * MS_PER_BYTE) : 0;
    if (!frame || frame.case === "pong" || frame.case === "coming") return;
    if (COUNTED.has(frame.case)) {
      this.window.receive(length);
      const at = this.lastHeard;
      this.hooks.counted(frame as Counted, () => this.handled(length, at));
    } else {
      this.hooks.control(frame as Control);
    }
  }

  private handled(length: number, received: number): void {
    if (this.over) return;
    const now = performance.now();
    this.oldest = Math.min(this.oldest ?? received, received);
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
    if (this.oldest !== null) this.ackDelayMs = performance.now() - this.oldest;
    this.oldest = null;
    this.acks += 1;
    this.send(ack(this.window.take(), this.window.size));
  }

  private ping(): void {
    this.nonce += 1;
    this.pings.set(this.nonce, Date.now());
    this.send(ping(this.nonce));
    // The first answers come quickly, so that latencies can be shown soon.
    const every = this.options.pingMs ?? 10_000;
    this.schedulePing(this.nonce < 4 ? Math.min(1000, every) : every);
  }

  private schedulePing(ms: number): void {
    if (this.pingTimer !== null) clearTimeout(this.pingTimer);
    this.pingTimer = setTimeout(() => {
      const silent = performance.now() - this.lastHeard;
      if (this.pings.size > 0 || this.socket.readyState === 0) {
        const stale = (this.options.staleMs ?? 10_000) + this.patienceMs;
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

  private pong(pong: Pong): void {
    const sent = this.pings.get(pong.nonce);
    this.pings.clear();
    if (pong.wireBytes > 0) this.wire = { bytes: pong.wireBytes, decoded: this.bytes };
    if (sent === undefined) return;
    const roundTripMs = Date.now() - sent;
    const offsetMs = pong.timeUs / 1000 - (sent + roundTripMs / 2);
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

function smaller(agreed: Amount, limit: Amount | null): Amount {
  if (!limit) return agreed;
  return { frames: Math.min(agreed.frames, limit.frames), bytes: Math.min(agreed.bytes, limit.bytes) };
}
