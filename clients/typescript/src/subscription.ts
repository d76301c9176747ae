/** One subscription: its place in the log, its handler, and the frames that wait for it. */

import type { Batch } from "./batch.js";
import { advance, type Cursor } from "./cursor.js";
import type { DataFrame, GapFrame } from "./frame.js";
import { matcher } from "./glob.js";
import type { DevicePresence } from "./presence.js";
import type { Start, Subscribe } from "./request.js";
import type { SeriesColumn, SeriesLoss } from "./series.js";

/** What to subscribe to. */
export interface SubscribeOptions {
  /** Globs over device names: `*`, `?`, `[a-z]`, `{a,b}`. Absent or empty: all the token allows. */
  devices?: string[];
  /** Globs over metric names. Absent or empty: all. */
  metrics?: string[];
  /**
   * `all` (the default): every batch in order. `latest`: the newest value per device and metric, at a bounded rate.
   * `series`: minimum, maximum, last value and count per bucket of time, for charts. `presence`: which devices there
   * are, and how they are.
   */
  mode?: "all" | "latest" | "series" | "presence";
  /**
   * `now` (the default); `snapshot`: the current state, then what follows; a time: everything that arrived at or
   * after it; a cursor that an earlier subscription, on any gateway, left. `series` has no snapshot.
   */
  start?: Start;
  /** `latest`, `presence`: at most one frame in this time, milliseconds. Default 250. `series`: the bucket. Default 1000. */
  intervalMs?: number;
}

/** What could not be delivered. */
export interface Gap {
  partition: number;
  fromOffset: number;
  /** Exclusive. */
  toOffset: number;
  reason: GapFrame["reason"];
}

/**
 * A frame that shows less than what went into it: the window was closed meanwhile, or (`latest`) values come quicker
 * than `intervalMs` lets through.
 */
export type Conflation =
  /** `merged` batches went into a frame that shows `shown`. */
  | { mode: "latest"; merged: number; shown: number }
  /** Buckets of `widthUs` where `askedUs` was asked for. */
  | { mode: "series"; merged: number; widthUs: number; askedUs: number };

/** What a handler gets. */
export type SubscriptionEvent =
  | {
      type: "batch";
      batch: Batch;
      partition: number;
      offset: number;
      /** When the bridge took it in, microseconds since the Unix epoch. */
      arrivalUs: number;
    }
  /** `latest`, and the snapshot that `start: "snapshot"` begins with. More merged than batches: some were overwritten. */
  | { type: "latest"; batches: Batch[]; merged: number; snapshot: boolean }
  /** Buckets of time. `widened`: some are wider than asked for. */
  | { type: "series"; columns: SeriesColumn[]; losses: SeriesLoss[]; merged: number; widened: boolean }
  | { type: "presence"; devices: DevicePresence[]; snapshot: boolean; complete: boolean }
  /** Nothing between these offsets can be delivered any more. */
  | { type: "gap"; gap: Gap }
  /** Everything up to the end of the log has been delivered; what follows is live. Comes again now and then. */
  | { type: "caught-up" };

/** May be asynchronous: a frame is acknowledged when its handlers are done with it. */
export type Handler = (event: SubscriptionEvent) => void | Promise<void>;

/** A frame on its way through a handler. */
export interface Item {
  event: SubscriptionEvent;
  /** How the position moves when it is handled. */
  moves?: { to: Cursor; back?: boolean };
  /** Called once, when the handler is done with it or never will be. */
  done: () => void;
}

export class Subscription implements AsyncIterable<SubscriptionEvent> {
  /** Its number in the connection. */
  readonly id: number;
  /** The filter number that the server gave it in the present connection; null: none yet. */
  private filter: number | null = null;
  private readonly options: SubscribeOptions;
  private readonly matches: (device: string) => boolean;
  private readonly leave: () => void;
  private readonly failed: (error: unknown) => void;
  private handler: Handler | null;
  /** Where the server has to go on: everything before it is here, handled or waiting. */
  private received: Cursor | null = null;
  private handled: Cursor = {};
  /** What a snapshot has to bring came: from here on it goes on at its cursor. */
  private begun = false;
  /** The same, of what was handled. */
  private settled = false;
  /** Caught up in the present connection. */
  live = false;
  private queue: Item[] = [];
  /** What the handler has at the moment. */
  private held: Item | null = null;
  private iterated = false;
  private running = false;
  private ended = false;
  private wake: (() => void) | null = null;

  constructor(
    id: number,
    options: SubscribeOptions,
    handler: Handler | null,
    hooks: { leave: () => void; failed: (error: unknown) => void },
  ) {
    this.id = id;
    this.options = options;
    this.matches = matcher(options.devices ?? []);
    matcher(options.metrics ?? []);
    this.handler = handler;
    this.leave = hooks.leave;
    this.failed = hooks.failed;
  }

  /** Where it stands: everything before has been handled. Store it to go on there later. */
  get cursor(): Cursor {
    return { ...this.handled };
  }

  /** Ends it. Frames that are on their way are dropped (and acknowledged). */
  close(): void {
    if (this.ended) return;
    this.ended = true;
    this.leave();
    const dropped = this.queue;
    this.queue = [];
    for (const item of dropped) item.done();
    this.wake?.();
  }

  /**
   * Events one by one, for a subscription without a handler. An event counts as handled when the next one is asked
   * for; leaving the loop ends the subscription.
   */
  async *[Symbol.asyncIterator](): AsyncGenerator<SubscriptionEvent, void, void> {
    if (this.handler) throw new TypeError("this subscription has a handler; iterate over one without");
    if (this.iterated) throw new TypeError("this subscription is iterated over already");
    this.iterated = true;
    try {
      for (;;) {
        const item = this.queue.shift();
        if (item) {
          this.held = item;
          yield item.event;
          this.finish(item);
        } else if (this.ended) {
          return;
        } else {
          await new Promise<void>((resolve) => {
            this.wake = resolve;
          });
          this.wake = null;
        }
      }
    } finally {
      // The loop was left at this event: not handled, so the cursor stays before it.
      this.held?.done();
      this.held = null;
      this.close();
    }
  }

  /** What the buckets of a series are to be, microseconds. */
  get bucketUs(): number {
    return (this.options.intervalMs || 1000) * 1000;
  }

  /** The request that begins it, or goes on where it stands. */
  request(): Subscribe {
    const { devices = [], metrics = [], mode = "all", start = "now", intervalMs = 0 } = this.options;
    const resumes =
      (mode === "all" || mode === "series") && this.received && (start !== "snapshot" || this.begun);
    return {
      id: this.id,
      devices,
      metrics,
      mode,
      start: resumes ? { cursor: this.received! } : start,
      intervalMs,
    };
  }

  /** The server accepted it. */
  subscribed(filter: number, cursor: Cursor): void {
    this.filter = filter;
    if (this.received && (this.begun || this.options.start !== "snapshot")) {
      advance(this.received, cursor);
    } else {
      this.received = { ...cursor };
      advance(this.handled, cursor);
    }
  }

  /** Whether data frames with this filter are its own, if their device is. Other modes have none, though they are told a filter too. */
  reads(filter: number): boolean {
    return (this.options.mode ?? "all") === "all" && this.filter === filter;
  }

  /** Whether this frame is its own and new; if so its position moves. */
  takes(frame: DataFrame, device: string): boolean {
    if (this.ended || !this.reads(frame.filter) || this.received === null) return false;
    if (!this.matches(device)) return false;
    if (frame.offset < (this.received[frame.partition] ?? 0)) return false;
    this.received[frame.partition] = frame.offset + 1;
    this.begun = true;
    return true;
  }

  /** A gap or the end of the log moves the position too; `back`: the log begins anew. */
  moved(to: Cursor, back = false): void {
    this.received ??= {};
    if (back) Object.assign(this.received, to);
    else advance(this.received, to);
  }

  /** Everything up to the end of the log is here. */
  caughtUp(to: Cursor): void {
    this.begun = true;
    this.live = true;
    this.moved(to);
    const last = this.queue.at(-1);
    // Comes again and again, and is not counted: a handler that hangs must not pile it up.
    if (last?.moves && last.event.type === "caught-up") advance(last.moves.to, to);
    else this.push({ event: { type: "caught-up" }, moves: { to: { ...to } }, done: () => {} });
  }

  /**
   * The connection broke. What waits for the handler is let go, since it is asked for again from where the handler
   * stands: so a slow handler holds one window of frames however often connections break.
   */
  interrupted(): void {
    this.filter = null;
    this.live = false;
    const dropped = this.queue;
    if (dropped.length === 0) return;
    this.queue = [];
    if (this.received) {
      this.received = { ...this.handled };
      if (this.held) move(this.received, this.held);
    }
    this.begun = this.settled || (this.held !== null && settles(this.held));
    for (const item of dropped) item.done();
  }

  push(item: Item): void {
    if (this.ended) {
      item.done();
      return;
    }
    this.queue.push(item);
    if (!this.handler) this.wake?.();
    else if (!this.running) this.run(this.handler);
  }

  /** Hands the waiting frames over, in order. Stays synchronous for as long as the handler does. */
  private run(handler: Handler): void {
    this.running = true;
    for (;;) {
      const item = this.queue.shift();
      if (!item) break;
      this.held = item;
      let result: unknown;
      try {
        result = handler(item.event);
      } catch (error) {
        this.failed(error);
      }
      if (result instanceof Promise) {
        result.catch(this.failed).then(() => {
          this.finish(item);
          this.run(handler);
        });
        return;
      }
      this.finish(item);
    }
    this.running = false;
  }

  private finish(item: Item): void {
    this.held = null;
    move(this.handled, item);
    if (settles(item)) this.settled = true;
    item.done();
  }
}

function move(cursor: Cursor, { moves }: Item): void {
  if (moves?.back) Object.assign(cursor, moves.to);
  else if (moves) advance(cursor, moves.to);
}

/** A snapshot comes before these. */
function settles({ event }: Item): boolean {
  return event.type !== "latest" && event.type !== "gap";
}
