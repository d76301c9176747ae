/** A connection that lasts: sessions come and go under it, subscriptions and commands stay. */

import { Backoff } from "./backoff.js";
import { type CommandOptions, Commands, type Reply } from "./commands.js";
import type { Welcome } from "./control.js";
import { Delivery } from "./delivery.js";
import { ConnectionError, RefusedError } from "./errors.js";
import type { Control } from "./frame.js";
import type { ConnectOptions, Events, Stats, Status, WebSocketConstructor } from "./options.js";
import { PATIENCE_MS, within } from "./patience.js";
import { subscribe, token as tokenFrame, unsubscribe } from "./request.js";
import { Session } from "./session.js";
import { type Handler, type SubscribeOptions, Subscription } from "./subscription.js";
import { TokenKeeper } from "./token.js";
import type { Amount } from "./window.js";

/** A connection that stood for so long was a good one: the next failure is a new one, milliseconds. */
const STEADY_MS = 10_000;
const CLOSED: Amount = { frames: 0, bytes: 0 };

/** Opens a connection and keeps it open until `close`. */
export function connect(options: ConnectOptions): Connection {
  return new Connection(options);
}

export class Connection {
  private readonly options: ConnectOptions;
  private readonly make: WebSocketConstructor;
  private readonly backoff: Backoff;
  private readonly token: TokenKeeper;
  private readonly commands: Commands;
  private readonly delivery: Delivery;
  private readonly subscriptions = new Map<number, Subscription>();
  private readonly listeners = new Map<keyof Events, Set<(event: never) => void>>();
  private nextId = 1;
  private session: Session | null = null;
  private welcomed = false;
  private welcomedAt = 0;
  private connections = 0;
  /** Connections that ended: picks the next URL of a list. */
  private ends = 0;
  private url = "";
  private refusedTokens = 0;
  private retryAfterMs = 0;
  private paused = false;
  private current: Status = { state: "connecting", attempt: 0 };
  private retryTimer: ReturnType<typeof setTimeout> | null = null;
  private readonly statsTimer: ReturnType<typeof setInterval>;
  private readonly online = () => this.retryNow();
  private readonly looked = () => this.narrow();

  constructor(options: ConnectOptions) {
    const make = options.WebSocket ?? (globalThis.WebSocket as WebSocketConstructor | undefined);
    if (!make) throw new TypeError("no WebSocket here: pass one, as `WebSocket` of the ws package");
    if (options.url.length === 0 && typeof options.url !== "function")
      throw new TypeError("no url to connect to");
    this.make = make;
    this.options = options;
    this.backoff = new Backoff(options.backoff);
    this.token = new TokenKeeper(options.token);
    this.commands = new Commands(
      (bytes) => this.send(bytes),
      () => this.now(),
    );
    this.delivery = new Delivery({
      subscriptions: this.subscriptions,
      emit: (name, event) => this.emit(name, event),
      now: () => this.now(),
    });
    this.statsTimer = setInterval(() => {
      const stats = this.welcomed ? this.stats : null;
      if (stats) this.emit("stats", stats);
    }, 1000);
    globalThis.addEventListener?.("online", this.online);
    globalThis.document?.addEventListener?.("visibilitychange", this.looked);
    // So that the caller can add its listeners first.
    queueMicrotask(() => this.open());
  }

  get status(): Status {
    return this.current;
  }

  /** Figures of the present connection; null while there is none. */
  get stats(): Stats | null {
    if (!this.session) return null;
    return { ...this.session.stats(), ...this.delivery.stats(), connections: this.connections };
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
        this.send(unsubscribe(id));
      },
      failed: (error) => this.emit("error", { subscription, error: asError(error) }),
    });
    this.subscriptions.set(id, subscription);
    this.send(subscribe(subscription.request()));
    return subscription;
  }

  /**
   * Has a device do something. Resolves with what it answered, whether it succeeded or not; rejects with a `CommandError`
   * where it was not carried out, or that is not known, and with the signal's reason where that is aborted. It is sent
   * again under its id after a reconnect, until it expires, and carried out once.
   */
  command(options: CommandOptions): Promise<Reply> {
    if (this.current.state === "closed") return Promise.reject(new TypeError("the connection is closed"));
    return this.commands.issue(options);
  }

  /** Closes the window: the server holds everything back (in mode `all` as a cursor, nothing is lost). */
  pause(): void {
    this.paused = true;
    this.narrow();
  }

  resume(): void {
    this.paused = false;
    this.narrow();
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

  /** The relay's clock as far as it is known, milliseconds since the Unix epoch. */
  private now(): number {
    return Date.now() + (this.session?.clockOffsetMs ?? 0);
  }

  private send(bytes: Uint8Array<ArrayBuffer>): void {
    if (this.welcomed) this.session?.send(bytes);
  }

  private async open(): Promise<void> {
    if (this.current.state === "closed") return;
    this.retryTimer = null;
    this.setStatus({ state: "connecting", attempt: this.backoff.attempt });
    let token: string;
    try {
      this.url = await this.address();
    } catch (error) {
      this.again(new ConnectionError(1006, `no address to be had: ${asError(error).message}`));
      return;
    }
    try {
      token = await this.token.get();
    } catch (error) {
      this.again(new ConnectionError(4401, `no token to be had: ${asError(error).message}`));
      return;
    }
    // The awaits may have let a close in.
    if ((this.current as Status).state === "closed") return;
    let session: Session;
    const mine = () => this.session === session;
    try {
      session = new Session(this.make, absolute(this.url), this.options, token, {
        control: (frame) => mine() && this.control(frame),
        counted: (frame, done) => this.delivery.take(frame, done),
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

  private async address(): Promise<string> {
    const { url } = this.options;
    if (typeof url === "function") return within(PATIENCE_MS, "address", url(this.backoff.attempt));
    return typeof url === "string" ? url : url[this.ends % url.length];
  }

  private control(frame: Control): void {
    switch (frame.case) {
      case "welcome":
        this.welcome(frame);
        break;
      case "subscribed":
        this.subscriptions.get(frame.id)?.subscribed(frame.filter, frame.cursor);
        break;
      case "caughtUp":
        this.subscriptions.get(frame.id)?.caughtUp(frame.cursor);
        break;
      case "error":
        if (this.commands.refused(frame)) break;
        this.emit("error", {
          subscription: this.subscriptions.get(frame.id) ?? null,
          error: new RefusedError(frame.code, frame.message),
        });
        break;
      case "reply":
        this.commands.replied(frame);
        break;
      case "goodbye":
        this.retryAfterMs = frame.retryAfterMs;
        for (const { id, cursor } of frame.cursors) this.subscriptions.get(id)?.moved(cursor);
        this.emit("goodbye", { reason: frame.reason, retryAfterMs: frame.retryAfterMs });
        break;
      case "tokenAccepted":
        this.commands.allow();
        this.keepToken(frame.tokenExpiresUs);
        if (this.current.state === "open") {
          this.setStatus({ ...this.current, tokenExpiresUs: frame.tokenExpiresUs });
        }
        break;
    }
  }

  private welcome(welcome: Welcome): void {
    const session = this.session!;
    this.welcomed = true;
    this.welcomedAt = performance.now();
    this.connections += 1;
    this.refusedTokens = 0;
    this.retryAfterMs = 0;
    session.welcome(welcome.window, welcome.timeUs);
    this.narrow();
    for (const subscription of this.subscriptions.values()) this.send(subscribe(subscription.request()));
    this.commands.connected(welcome.mayCommand);
    this.keepToken(welcome.tokenExpiresUs);
    const { server, subject, partitions, tokenExpiresUs, mayCommand } = welcome;
    this.setStatus({
      state: "open",
      url: this.url,
      server,
      subject,
      partitions,
      tokenExpiresUs,
      mayCommand,
      compressed: session.compressed,
    });
  }

  private keepToken(expiresUs: number): void {
    this.token.keep(
      expiresUs,
      () => this.now(),
      (token) => this.send(tokenFrame(token)),
      (error) => this.emit("error", { subscription: null, error: asError(error) }),
    );
  }

  /** The window follows whether anybody looks. */
  private narrow(): void {
    if (!this.welcomed) return;
    const hidden = this.options.hiddenWindow;
    let limit: Amount | null = null;
    if (this.paused) limit = CLOSED;
    else if (hidden !== null && globalThis.document?.visibilityState === "hidden") {
      limit = { frames: 16, bytes: 256 * 1024, ...hidden };
    }
    this.session?.narrow(limit);
  }

  private ended(error: ConnectionError): void {
    this.session = null;
    if (this.welcomed && performance.now() - this.welcomedAt > STEADY_MS) this.backoff.reset();
    this.welcomed = false;
    this.token.stop();
    this.commands.disconnected();
    for (const subscription of this.subscriptions.values()) subscription.interrupted();
    if (error.remedy === "stop") {
      this.finish(error);
      return;
    }
    if (error.remedy === "token") {
      // A fresh token may help, once; the same one cannot.
      this.refusedTokens += 1;
      if (!this.token.renewable || this.refusedTokens > 1) {
        this.finish(error);
        return;
      }
    } else {
      this.ends += 1;
    }
    this.again(error);
  }

  private again(error: ConnectionError): void {
    if (this.current.state === "closed") return;
    const delayMs = this.backoff.next(this.retryAfterMs);
    this.retryAfterMs = 0;
    this.setStatus({ state: "waiting", attempt: this.backoff.attempt, delayMs, error });
    this.retryTimer = setTimeout(() => this.open(), delayMs);
  }

  private finish(error: ConnectionError | undefined): void {
    if (this.current.state === "closed") return;
    this.setStatus(error ? { state: "closed", error } : { state: "closed" });
    if (this.retryTimer !== null) clearTimeout(this.retryTimer);
    clearInterval(this.statsTimer);
    this.token.stop();
    globalThis.removeEventListener?.("online", this.online);
    globalThis.document?.removeEventListener?.("visibilitychange", this.looked);
    this.session?.close();
    this.session = null;
    this.welcomed = false;
    this.commands.close();
    for (const subscription of [...this.subscriptions.values()]) subscription.close();
  }

  private setStatus(status: Status): void {
    this.current = status;
    this.emit("status", status);
  }

  /** A listener that throws must not stop what tells it: its error goes where uncaught ones go. */
  private emit<K extends keyof Events>(name: K, event: Events[K]): void {
    for (const listener of [...(this.listeners.get(name) ?? [])]) {
      try {
        (listener as (event: Events[K]) => void)(event);
      } catch (error) {
        queueMicrotask(() => {
          throw error;
        });
      }
    }
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
