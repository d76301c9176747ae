/** One device's readings: a subscription from the beginning of the chosen window on, and what it brought. */

import { type Batch, type Column, type Connection, RefusedError, type Subscription } from "@headwater/client";
import { signal } from "@preact/signals";
import { type Group, group } from "./group";
import { clockOffset, now, whenConnected } from "./link";
import { Series } from "./series";

/** A metric of the device: numeric ones have a series, texts only their newest value. */
export interface Metric {
  metric: string;
  unit: string;
  kind: Column["type"];
  series: Series | null;
  text: string;
  /** Milliseconds. */
  textTime: number;
}

/** A stretch of time that the agent had to give up. `to` is not known until the next batch of the stream. */
export interface Lost {
  from: number;
  to: number;
  readings: number;
  reason: string;
}

/** What the chart of a hidden page would need is fetched again when it is looked at. */
const HIDDEN_MS = 30_000;

export class Feed {
  readonly metrics = new Map<string, Metric>();
  readonly losses: Lost[] = [];
  /** Charts, in their order; new when a metric joins. */
  readonly groups = signal<Group<Metric>[]>([]);
  readonly texts = signal<Metric[]>([]);
  /** loading: history is on its way; live; silent: nothing in the window. */
  readonly state = signal<"loading" | "live" | "silent">("loading");
  /** Sample → screen, milliseconds, of the newest readings of live batches. */
  readonly latencies: number[] = [];
  readonly device: string;
  readonly windowMs: number;
  private subscription: Subscription | null = null;
  private newest: Subscription | null = null;
  private connection: Connection | null = null;
  private readonly release: () => void;
  private readonly lastTimes = new Map<bigint, number>();
  private readonly open = new Map<bigint, Lost>();
  private hiddenTimer: ReturnType<typeof setTimeout> | null = null;
  private fallback = false;
  private begun = false;
  private deafen: () => void = () => {};
  private readonly visibility = () => this.looked();

  constructor(device: string, windowMs: number) {
    this.device = device;
    this.windowMs = windowMs;
    this.release = whenConnected((connection) => {
      this.connection = connection;
      this.begin();
    });
    document.addEventListener("visibilitychange", this.visibility);
  }

  close(): void {
    this.release();
    document.removeEventListener("visibilitychange", this.visibility);
    if (this.hiddenTimer !== null) clearTimeout(this.hiddenTimer);
    this.hiddenTimer = null;
    this.leave();
  }

  /** Forgets what is out of sight for good. Called now and then by whoever draws. */
  forget(): void {
    const before = now() - this.windowMs - 60_000;
    for (const { series } of this.metrics.values()) series?.forget(before);
    while (this.losses.length > 0 && this.losses[0].to < before) this.losses.shift();
  }

  private leave(): void {
    this.deafen();
    this.subscription?.close();
    this.newest?.close();
    this.subscription = null;
    this.newest = null;
  }

  private begin(): void {
    const connection = this.connection;
    if (!connection) return;
    this.leave();
    this.metrics.clear();
    this.losses.length = 0;
    this.lastTimes.clear();
    this.open.clear();
    this.latencies.length = 0;
    this.begun = false;
    this.state.value = "loading";
    const start = this.fallback ? ("snapshot" as const) : { timeUs: (now() - this.windowMs) * 1000 };
    const mine = connection.subscribe({ devices: [literally(this.device)], start }, (event) => {
      if (event.type === "batch") this.take(event.batch, event.arrivalUs / 1000);
      else if (event.type === "latest") for (const batch of event.batches) this.take(batch, 0);
      else if (event.type === "caught-up") this.caughtUp();
      else if (event.type === "gap" && event.gap.reason === "reset") queueMicrotask(() => this.begin());
    });
    this.subscription = mine;
    this.deafen = connection.on("error", ({ subscription, error }) => {
      if (subscription !== mine || this.fallback || !(error instanceof RefusedError)) return;
      // A relay that does not read from a time on: the present state, then what follows.
      this.fallback = true;
      this.begin();
    });
  }

  private caughtUp(): void {
    this.begun = true;
    if (this.metrics.size > 0) {
      this.state.value = "live";
      return;
    }
    if (this.newest) return;
    this.state.value = "silent";
    const connection = this.connection!;
    const newest = connection.subscribe(
      { devices: [literally(this.device)], mode: "latest", start: "snapshot" },
      (event) => {
        if (event.type !== "latest") return;
        for (const batch of event.batches) this.take(batch, 0);
        queueMicrotask(() => newest.close());
      },
    );
    this.newest = newest;
  }

  private looked(): void {
    if (document.hidden) {
      this.hiddenTimer ??= setTimeout(() => {
        this.hiddenTimer = null;
        this.leave();
      }, HIDDEN_MS);
      return;
    }
    if (this.hiddenTimer !== null) clearTimeout(this.hiddenTimer);
    this.hiddenTimer = null;
    if (!this.subscription) this.begin();
  }

  private take(batch: Batch, arrival: number): void {
    if (batch.loss) {
      const from = this.lastTimes.get(batch.stream) ?? Number.NaN;
      const lost: Lost = { from, to: Number.NaN, readings: batch.loss.readings, reason: batch.loss.reason };
      this.losses.push(lost);
      this.open.set(batch.stream, lost);
      return;
    }
    let added = false;
    let first = Number.POSITIVE_INFINITY;
    let last = Number.NEGATIVE_INFINITY;
    for (const column of batch.columns) {
      if (column.times.length === 0) continue;
      const times = column.times.map((us) => us / 1000);
      first = Math.min(first, times[0]);
      last = Math.max(last, times[times.length - 1]);
      added = this.column(column, times) || added;
    }
    const open = this.open.get(batch.stream);
    if (open && first !== Number.POSITIVE_INFINITY) {
      open.to = first;
      if (Number.isNaN(open.from)) open.from = first;
      this.open.delete(batch.stream);
    }
    if (last !== Number.NEGATIVE_INFINITY) {
      this.lastTimes.set(batch.stream, last);
      // Backlog is late by design: what counts is a batch that the relay got when it was fresh.
      if (arrival > 0 && this.begun && arrival - last < 5000) {
        this.latencies.push(Date.now() + clockOffset() - last);
        if (this.latencies.length > 300) this.latencies.shift();
      }
    }
    if (added) this.arrange();
    if (this.begun && arrival > 0) this.state.value = "live";
  }

  /** True if the metric is new. */
  private column(column: Column, times: Float64Array): boolean {
    const key = column.metric;
    let metric = this.metrics.get(key);
    const fresh = !metric;
    if (!metric) {
      const series = column.type === "string" ? null : new Series();
      metric = { metric: key, unit: column.unit, kind: column.type, series, text: "", textTime: 0 };
      this.metrics.set(key, metric);
    }
    if (column.type === "string") {
      const time = times[times.length - 1];
      if (time >= metric.textTime) {
        metric.text = column.values[column.values.length - 1];
        metric.textTime = time;
        if (!fresh && !metric.series) this.texts.value = [...this.texts.value];
      }
    } else if (metric.series) {
      const { values } = column;
      metric.series.add(times, values instanceof BigInt64Array ? Float64Array.from(values, Number) : values);
    }
    return fresh;
  }

  private arrange(): void {
    const all = [...this.metrics.values()];
    this.groups.value = group(all.filter((metric) => metric.series));
    this.texts.value = all.filter((metric) => !metric.series);
  }
}

/** A device's name as a glob that matches it alone. */
function literally(name: string): string {
  return name.replace(/[*?[\]{}]/g, "[$&]");
}

/** The value below which this share of the list lies. */
export function quantile(list: readonly number[], share: number): number {
  const sorted = [...list].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
}
