/** Counted frames on their way to the subscriptions that they are for. */

import { type Batch, decodeBatch } from "./batch.js";
import type { Cursor } from "./cursor.js";
import type { Counted, DataFrame, LatestFrame } from "./frame.js";
import { Latency } from "./latency.js";
import type { Events, Stats } from "./options.js";
import type { SeriesFrame } from "./series.js";
import type { Conflation, Gap, Subscription, SubscriptionEvent } from "./subscription.js";

/** A batch that was older when the bridge took it in is backlog, and says nothing of the way here, milliseconds. */
const FRESH_MS = 5000;

export interface DeliveryHooks {
  subscriptions: ReadonlyMap<number, Subscription>;
  emit<K extends keyof Events>(name: K, event: Events[K]): void;
  /** The relay's clock, milliseconds since the Unix epoch. */
  now(): number;
}

export class Delivery {
  private readonly hooks: DeliveryHooks;
  private conflated = 0;
  private gaps = 0;
  private readonly samples = new Latency();
  private readonly arrivals = new Latency();

  constructor(hooks: DeliveryHooks) {
    this.hooks = hooks;
  }

  stats(): Pick<Stats, "conflated" | "gaps" | "latency"> {
    const latency = { sampleMs: this.samples.quantiles(), arrivalMs: this.arrivals.quantiles() };
    return { conflated: this.conflated, gaps: this.gaps, latency };
  }

  /** `done` is called once, when every handler is done with the frame. */
  take(frame: Counted, done: () => void): void {
    if (frame.case === "data") {
      this.data(frame, done);
      return;
    }
    const subscription = this.hooks.subscriptions.get(frame.id);
    if (!subscription) {
      done();
      return;
    }
    let event: SubscriptionEvent;
    switch (frame.case) {
      case "gap": {
        const { partition, fromOffset, toOffset, reason } = frame;
        this.gap(subscription, { partition, fromOffset, toOffset, reason }, done);
        return;
      }
      case "latest":
        event = this.latest(subscription, frame);
        break;
      case "series":
        subscription.moved(frame.cursor);
        subscription.push({ event: this.series(subscription, frame), moves: { to: frame.cursor }, done });
        return;
      case "presence": {
        const { devices, snapshot, complete } = frame;
        event = { type: "presence", devices, snapshot, complete };
        break;
      }
    }
    subscription.push({ event, done });
  }

  private latest(subscription: Subscription, frame: LatestFrame): SubscriptionEvent {
    const { batches, merged, snapshot } = frame;
    if (!snapshot) {
      if (merged > batches.length) {
        this.conflation(subscription, { mode: "latest", merged, shown: batches.length });
      }
      this.sampled(batches.reduce((ms, batch) => Math.max(ms, newest(batch)), Number.NEGATIVE_INFINITY));
    }
    return { type: "latest", batches, merged, snapshot };
  }

  private series(subscription: Subscription, frame: SeriesFrame): SubscriptionEvent {
    const { columns, merged, losses } = frame;
    const askedUs = subscription.bucketUs;
    let widthUs = 0;
    let us = Number.NEGATIVE_INFINITY;
    for (const column of columns) {
      widthUs = Math.max(widthUs, column.widthUs);
      us = Math.max(us, column.lastTimes.at(-1) ?? us);
    }
    if (subscription.live) this.sampled(us / 1000);
    const widened = widthUs > askedUs;
    if (widened) this.conflation(subscription, { mode: "series", merged, widthUs, askedUs });
    return { type: "series", columns, losses, merged, widened };
  }

  /** A frame whose newest reading is of this time came, milliseconds; -Infinity: it has none. */
  private sampled(ms: number): void {
    if (ms > Number.NEGATIVE_INFINITY) this.samples.add(this.hooks.now() - ms);
  }

  private conflation(subscription: Subscription, conflation: Conflation): void {
    this.conflated += 1;
    this.hooks.emit("conflated", { subscription, conflation });
  }

  private gap(subscription: Subscription, gap: Gap, done: () => void): void {
    const to: Cursor = { [gap.partition]: gap.toOffset };
    const back = gap.reason === "reset";
    subscription.moved(to, back);
    this.gaps += 1;
    this.hooks.emit("gap", { subscription, gap });
    subscription.push({ event: { type: "gap", gap }, moves: { to, back }, done });
  }

  private data(frame: DataFrame, done: () => void): void {
    const { partition, offset, arrivalUs } = frame;
    let batch: Batch;
    try {
      batch = decodeBatch(frame.batch);
    } catch (error) {
      this.hooks.emit("error", { subscription: null, error: error as Error });
      // Which device it was is not known: it is missing to all that have this filter.
      const gap: Gap = { partition, fromOffset: offset, toOffset: offset + 1, reason: "unreadable" };
      const missing = [...this.hooks.subscriptions.values()].filter((each) => each.reads(frame.filter));
      const each = shared(missing.length, done);
      for (const subscription of missing) this.gap(subscription, gap, each);
      return;
    }
    const takers = [...this.hooks.subscriptions.values()].filter((each) => each.takes(frame, batch.device));
    if (takers.some(({ live }) => live)) {
      const sampled = newest(batch);
      this.arrivals.add(this.hooks.now() - arrivalUs / 1000);
      if (arrivalUs / 1000 - sampled < FRESH_MS) this.sampled(sampled);
    }
    const each = shared(takers.length, done);
    for (const subscription of takers) {
      subscription.push({
        event: { type: "batch", batch, partition, offset, arrivalUs },
        moves: { to: { [partition]: offset + 1 } },
        done: each,
      });
    }
  }
}

/** The time of a batch's newest reading, milliseconds; -Infinity without one. */
function newest(batch: Batch): number {
  let us = Number.NEGATIVE_INFINITY;
  for (const { times } of batch.columns) us = Math.max(us, times.at(-1) ?? us);
  return us / 1000;
}

/** What `count` calls of the function that comes back do: `done`, once. Without any to come, at once. */
function shared(count: number, done: () => void): () => void {
  let left = count;
  if (left === 0) done();
  return () => {
    left -= 1;
    if (left === 0) done();
  };
}
