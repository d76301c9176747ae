/** A connection that lasts: sessions come and go under it, subscriptions stay. */

import { Backoff } from "./backoff.js";
import { type Batch, decodeBatch } from "./batch.js";
import { type Cursor, fromMessage } from "./cursor.js";
import { ConnectionError, RefusedError } from "./errors.js";
import type { DataFrame } from "./frame.js";
import { GapReason } from "./gen/headwater/v1/live_pb.js";
import type { ConnectOptions, Events, Stats, Status, WebSocketConstructor } from "./options.js";
import { type Control, type Counted, Session, type Welcome } from "./session.js";
import {
  type Gap,
  type Handler,
  type SubscribeOptions,
  Subscription,
  type SubscriptionEvent,
} from "./subscription.js";

const GAPS: Record<number, Gap["reason"]> = {
  [GapReason.RETENTION]: "retention",
  [GapReason.UNREADABLE]: "unreadable",
  [GapReason.RESET]: "reset",
};

/** How long before its end a token is replaced, milliseconds; of a short-lived one half its life. */
const REFRESH_BEFORE_MS = 60_000;

/** Opens a connection and keeps it open until `close`. */
export function connect(options: ConnectOptions): Connection {
  return new Connection(options);
}

export class Connection {
  private readonly options: ConnectOptions;
  private readonly make: WebSocketConstructor;
  private readonly backoff: Backoff;
  private readonly subscriptions = new Map<number, Subscription>();
  private readonly listeners = new Map<keyof Events, Set<(event: never) => void>>();
  private nextId = 1;
  private session: Session | null = null;
  private welcomed = false;
  private connections = 0;
  private refusedTokens = 0;
  private retryAfterMs = 0;
  private paused = false;
  private current: Status = { state: "connecting", attempt: 0 };
  private retryTimer: ReturnType<typeof setTimeout> | null = null;
  private tokenTimer: ReturnType<typeof setTimeout> | null = null;
  private readonly statsTimer: ReturnType<typeof setInterval>;
  private readonly online = () => this.retryNow();

  constructor(options: ConnectOptions) {
    const make = options.WebSocket ?? (globalThis.WebSocket as unknown as WebSocketConstructor | undefined);
    if (!make) throw new TypeError("no WebSocket here: pass one, as `WebSocket` of the ws package");
    this.make = make;
    this.options = { ...options, url: absolute(options.url) };
    this.backoff = new Backoff(options.backoff);
    this.statsTimer = setInterval(() => {
      if (this.welcomed && this.session) this.emit("stats", this.session.stats(this.connections));
    }, 1000);
    globalThis.addEventListener?.("online", this.online);
    // So that the caller can add its listeners first.
    queueMicrotask(() => this.open());
  }

  get status(): Status {
    return this.current;
  }

  /** Figures of the present connection; null while there is none. */
  get stats(): Stats | null {
    return this.session?.stats(this.connections) ?? null;
  }

  /** Listens to an event; call what comes back to stop. */
  on<K extends keyof Events>(name: K, listener: (event: Events[K]) => void): () => void {
    let set = this.listeners.get(name);
    if (!set) {
      set = new Set();
      this.listeners.set(name, set);
    }
    set.add(listener as (event: never) => void);
    return () => set.delete(listener as (event: never) => void);
  }

  /** Subscribes, now and after every reconnect. Without a handler iterate over what comes back. */
  subscribe(options: SubscribeOptions, handler?: Handler): Subscription {
    const id = this.nextId++;
    const subscription = new Subscription(id, options, handler ?? null, {
      leave: () => {
        this.subscriptions.delete(id);
        if (this.welcomed) this.session?.send({ case: "unsubscribe", value: { id } });
      },
      failed: (error) => this.emit("error", { subscription, error: asError(error) }),
    });
    this.subscriptions.set(id, subscription);
    if (this.welcomed) this.session?.send({ case: "subscribe", value: subscription.request() });
    return subscription;
  }

  /** Closes the window: the server holds everything back (in mode `all` as a cursor, nothing is lost). */
  pause(): void {
    this.paused = true;
    if (this.welcomed) this.session?.pause(true);
  }

  resume(): void {
    this.paused = false;
    if (this.welcomed) this.session?.pause(false);
  }

  /** Tries at once instead of waiting for the backoff's delay. */
  retryNow(): void {
    if (this.current.state !== "waiting") return;
    if (this.retryTimer !== null) clearTimeout(this.retryTimer);
    this.open();
  }

  /** Ends everything: subscriptions too. */
  close(): void {
    this.finish(undefined);
  }

  private async open(): Promise<void> {
    if (this.current.state === "closed") return;
    this.retryTimer = null;
    this.setStatus({ state: "connecting", attempt: this.backoff.attempt });
    let token = "";
    try {
      token = await this.token();
    } catch (error) {
      this.again(new ConnectionError(4401, `no token to be had: ${asError(error).message}`));
      return;
    }
    // The await may have let a close in.
    if ((this.current as Status).state === "closed") return;
    let session: Session;
    const mine = () => this.session === session;
    try {
      session = new Session(this.make, this.options, token, {
        control: (frame) => mine() && this.control(frame),
        counted: (frame, done) => this.counted(frame, done),
        unreadable: (error) => this.emit("error", { subscription: null, error }),
        ended: (error) => mine() && this.ended(error),
      });
    } catch (error) {
      // A URL that no WebSocket takes: no attempt will change that.
      this.finish(new ConnectionError(4400, asError(error).message));
      return;
    }
    this.session = session;
  }

  private async token(): Promise<string> {
    const { token } = this.options;
    return typeof token === "function" ? await token() : (token ?? "");
  }

  private control(frame: Control): void {
    switch (frame.case) {
      case "welcome":
        this.welcome(frame.value);
        break;
      case "subscribed": {
        const { id, filter, cursor } = frame.value;
        this.subscriptions.get(id)?.subscribed(filter, fromMessage(cursor));
        break;
      }
      case "caughtUp": {
        const to = fromMessage(frame.value.cursor);
        const subscription = this.subscriptions.get(frame.value.id);
        subscription?.begin();
        subscription?.moved(to);
        subscription?.push({ event: { type: "caught-up" }, moves: { to }, done: () => {} });
        break;
      }
      case "error": {
        const { id, code, message } = frame.value;
        this.emit("error", {
          subscription: this.subscriptions.get(id) ?? null,
          error: new RefusedError(code, message),
        });
        break;
      }
      case "goodbye":
        this.retryAfterMs = frame.value.retryAfterMs;
        this.emit("goodbye", { reason: frame.value.reason, retryAfterMs: frame.value.retryAfterMs });
        break;
      case "tokenAccepted":
        this.scheduleToken(Number(frame.value.tokenExpiresUs));
        break;
    }
  }

  private welcome(welcome: Welcome): void {
    const session = this.session!;
    this.welcomed = true;
    this.connections += 1;
    this.refusedTokens = 0;
    this.retryAfterMs = 0;
    session.welcome(welcome);
    if (this.paused) session.pause(true);
    for (const subscription of this.subscriptions.values()) {
      subscription.filter = null;
      session.send({ case: "subscribe", value: subscription.request() });
    }
    const tokenExpiresUs = Number(welcome.tokenExpiresUs);
    this.scheduleToken(tokenExpiresUs);
    this.setStatus({
      state: "open",
      server: welcome.server,
      subject: welcome.subject,
      partitions: welcome.partitions,
      tokenExpiresUs,
      compressed: session.compressed,
    });
  }

  private scheduleToken(expiresUs: number): void {
    if (this.tokenTimer !== null) clearTimeout(this.tokenTimer);
    this.tokenTimer = null;
    if (expiresUs === 0 || typeof this.options.token !== "function") return;
    const left = expiresUs / 1000 - Date.now();
    const session = this.session;
    // setTimeout counts in 31 bits; a token that lives longer than 24 days is looked at again then.
    const wait = Math.min(2 ** 31 - 1, Math.max(0, left - Math.min(REFRESH_BEFORE_MS, left / 2)));
    this.tokenTimer = setTimeout(async () => {
      try {
        const token = await this.token();
        if (this.session === session) session?.send({ case: "token", value: { token } });
      } catch (error) {
        this.emit("error", { subscription: null, error: asError(error) });
      }
    }, wait);
  }

  private counted(frame: Counted, done: () => void): void {
    // A frame that shows the connection at work: the next failure is a new one.
    this.backoff.reset();
    switch (frame.case) {
      case "data":
        this.data(frame, done);
        return;
      case "latest":
        this.deliver(
          frame.id,
          { type: "latest", batches: frame.batches, merged: frame.merged, snapshot: frame.snapshot },
          done,
        );
        return;
      case "presence": {
        const { id, devices, snapshot, snapshotComplete } = frame.value;
        this.deliver(id, { type: "presence", devices, snapshot, complete: snapshotComplete }, done);
        return;
      }
      case "gap": {
        const { id, partition, fromOffset, toOffset, reason } = frame.value;
        const gap: Gap = {
          partition,
          fromOffset: Number(fromOffset),
          toOffset: Number(toOffset),
          reason: GAPS[reason] ?? "unspecified",
        };
        this.gap(this.subscriptions.get(id), gap, done);
        return;
      }
      default:
        // SERIES is not asked for by this client.
        done();
    }
  }

  private deliver(id: number, event: SubscriptionEvent, done: () => void): void {
    const subscription = this.subscriptions.get(id);
    if (subscription) subscription.push({ event, done });
    else done();
  }

  private gap(subscription: Subscription | undefined, gap: Gap, done: () => void): void {
    if (!subscription) {
      done();
      return;
    }
    const to: Cursor = { [gap.partition]: gap.toOffset };
    const back = gap.reason === "reset";
    subscription.moved(to, back);
    this.emit("gap", { subscription, gap });
    subscription.push({ event: { type: "gap", gap }, moves: { to, back }, done });
  }

  private data(frame: DataFrame, done: () => void): void {
    let batch: Batch;
    try {
      batch = decodeBatch(frame.batch);
    } catch (error) {
      this.emit("error", { subscription: null, error: asError(error) });
      // Which device it was is not known: it is missing to all that have this filter.
      const { partition, offset } = frame;
      const gap: Gap = { partition, fromOffset: offset, toOffset: offset + 1, reason: "unreadable" };
      for (const subscription of this.subscriptions.values()) {
        if (subscription.filter === frame.filter) this.gap(subscription, gap, () => {});
      }
      done();
      return;
    }
    const takers: Subscription[] = [];
    for (const subscription of this.subscriptions.values()) {
      if (subscription.takes(frame, batch.device)) takers.push(subscription);
    }
    let left = takers.length;
    if (left === 0) done();
    for (const subscription of takers) {
      const { partition, offset, arrivalUs } = frame;
      subscription.push({
        event: { type: "batch", batch, partition, offset, arrivalUs },
        moves: { to: { [partition]: offset + 1 } },
        done: () => {
          left -= 1;
          if (left === 0) done();
        },
      });
    }
  }

  private ended(error: ConnectionError): void {
    this.session = null;
    this.welcomed = false;
    if (this.tokenTimer !== null) clearTimeout(this.tokenTimer);
    if (error.remedy === "stop") {
      this.finish(error);
      return;
    }
    if (error.remedy === "token") {
      // A fresh token may help, once; the same one cannot.
      this.refusedTokens += 1;
      if (typeof this.options.token !== "function" || this.refusedTokens > 1) {
        this.finish(error);
        return;
      }
    }
    this.again(error);
  }

  private again(error: ConnectionError): void {
    const delayMs = this.backoff.next(this.retryAfterMs);
    this.retryAfterMs = 0;
    this.setStatus({ state: "waiting", attempt: this.backoff.attempt, delayMs, error });
    this.retryTimer = setTimeout(() => this.open(), delayMs);
  }

  private finish(error: ConnectionError | undefined): void {
    if (this.current.state === "closed") return;
    this.setStatus(error ? { state: "closed", error } : { state: "closed" });
    for (const timer of [this.retryTimer, this.tokenTimer]) if (timer !== null) clearTimeout(timer);
    clearInterval(this.statsTimer);
    globalThis.removeEventListener?.("online", this.online);
    this.session?.close();
    this.session = null;
    this.welcomed = false;
    for (const subscription of [...this.subscriptions.values()]) subscription.close();
  }

  private setStatus(status: Status): void {
    this.current = status;
    this.emit("status", status);
  }

  private emit<K extends keyof Events>(name: K, event: Events[K]): void {
    for (const listener of [...(this.listeners.get(name) ?? [])])
      (listener as (event: Events[K]) => void)(event);
  }
}

function absolute(url: string): string {
  const base = globalThis.location?.href;
  if (!base) return url;
  const full = new URL(url, base);
  if (full.protocol === "http:") full.protocol = "ws:";
  if (full.protocol === "https:") full.protocol = "wss:";
  return full.href;
}

function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error));
}
