/**
 * Some devices' readings over a range, kept up while it is live: the subscriptions behind a page of charts. Short ranges are read in full
 * (mode ALL), so that single readings, suspect ones and losses can be told; long ones as buckets (mode SERIES).
 */

import {
  type Connection,
  type Refusal,
  RefusedError,
  type Subscription,
  type SubscriptionEvent,
} from "@headwater/client";
import { signal } from "@preact/signals";
import { Latencies } from "./latency";
import { clockOffset, now, whenConnected } from "./link";
import { lengthOf, type Range } from "./route";
import { Store } from "./store";
import { subscribe } from "./watch";

/** What the chart of a hidden page would need is fetched again when it is looked at. */
const HIDDEN_MS = 30_000;
/** The longest range that is read in full, and how far back one may lie for that. */
const FULL_MS = 15 * 60_000;
const FULL_BACK_MS = 60 * 60_000;
/** Buckets in a range: about as many as a chart has pixels. */
const BUCKETS = 1000;
/** A range is changed often while a hand moves: what is read follows when it rests. */
const REST_MS = 250;
/** What is refused for a while is asked for again, later each time, up to this. */
const AGAIN_CAP_MS = 60_000;
/** What the relay says that it waits for begins by itself; if nothing comes of it for so long, it is asked anew. */
const WAITED_MS = 60_000;
/** So much is read beyond either edge, as a share of the range: a small step to the side finds it there. */
const MARGIN = 0.5;

/** What has been read, or is being read. */
interface Cover {
  from: number;
  /** Infinity: up to now, and on. */
  to: number;
  /** Milliseconds; 0: every reading. */
  bucket: number;
}

export class Feed {
  /** What there is to draw; a new one when a range was read anew. */
  readonly store = signal(new Store());
  /** Grows when a line or a loss joins the store. */
  readonly changes = signal(0);
  /** loading: history is on its way; live; silent: nothing in the range. */
  readonly state = signal<"loading" | "live" | "silent">("loading");
  /** Whether what is read are buckets, and how long each is, milliseconds; 0: every reading. */
  readonly bucket = signal(0);
  /** Of the newest readings of live batches. */
  readonly latencies = new Latencies();
  readonly devices: readonly string[];
  range: Range;
  private cover: Cover = { from: 0, to: 0, bucket: -1 };
  private subscriptions: Subscription[] = [];
  private connection: Connection | null = null;
  private readonly release: () => void;
  private hiddenTimer: ReturnType<typeof setTimeout> | null = null;
  private restTimer: ReturnType<typeof setTimeout> | null = null;
  private againTimer: ReturnType<typeof setTimeout> | null = null;
  /** How often in a row it was put off. */
  private putOff = 0;
  /** What this relay does not do. */
  private without = { series: false, time: false };
  private begun = false;
  private deafen: () => void = () => {};
  private readonly visibility = () => this.looked();

  constructor(devices: readonly string[], range: Range) {
    this.devices = devices;
    this.range = range;
    this.release = whenConnected((connection) => {
      this.connection = connection;
      this.begin();
    });
    document.addEventListener("visibilitychange", this.visibility);
  }

  /** Another range is looked at. What is not here is read as soon as it rests. */
  look(range: Range): void {
    this.range = range;
    if (this.restTimer !== null) clearTimeout(this.restTimer);
    this.restTimer = null;
    if (!this.covers()) this.restTimer = setTimeout(() => this.begin(), REST_MS);
  }

  close(): void {
    this.release();
    document.removeEventListener("visibilitychange", this.visibility);
    for (const timer of [this.hiddenTimer, this.restTimer]) if (timer !== null) clearTimeout(timer);
    this.leave();
  }

  /** Forgets what is out of sight for good. Called now and then by whoever draws. */
  forget(): void {
    if ("from" in this.range || this.cover.to !== Number.POSITIVE_INFINITY) return;
    const before = now() - lengthOf(this.range) * (1 + MARGIN) - 60_000;
    this.cover.from = Math.max(this.cover.from, before);
    this.store.value.forget(before);
  }

  private edges(): [number, number] {
    if ("from" in this.range) return [this.range.from, this.range.to];
    return [now() - lengthOf(this.range), Number.POSITIVE_INFINITY];
  }

  private covers(): boolean {
    const [from, to] = this.edges();
    const { cover } = this;
    return from >= cover.from - 1000 && to <= cover.to && cover.bucket <= this.fitting(from).coarsest;
  }

  /** How wide buckets should be from a time on, and how wide they may be where they are here already. */
  private fitting(from: number): { bucket: number; coarsest: number } {
    const length = lengthOf(this.range);
    const full = length <= FULL_MS && now() - from <= FULL_BACK_MS;
    if (full || this.without.series) return { bucket: 0, coarsest: 0 };
    const bucket = Math.max(1000, Math.ceil(length / BUCKETS / 1000) * 1000);
    return { bucket, coarsest: bucket * 2 };
  }

  private leave(): void {
    this.deafen();
    this.calm();
    for (const subscription of this.subscriptions) subscription.close();
    this.subscriptions = [];
  }

  /** It need not be asked again. */
  private calm(): void {
    if (this.againTimer !== null) clearTimeout(this.againTimer);
    this.againTimer = null;
  }

  private begin(): void {
    const { connection } = this;
    if (!connection) return;
    this.leave();
    const [from, to] = this.edges();
    const length = lengthOf(this.range);
    const { bucket } = this.fitting(from);
    const begins = from - ("from" in this.range ? length * MARGIN : 0);
    this.cover = { from: begins, to: to === Number.POSITIVE_INFINITY ? to : to + length * MARGIN, bucket };
    if (this.cover.to >= now()) this.cover.to = Number.POSITIVE_INFINITY;
    this.begun = false;
    this.latencies.clear();
    this.state.value = "loading";
    const store = new Store();
    // What is here stays in sight until the new is complete.
    const show = () => {
      if (this.store.value === store) return;
      this.store.value = store;
      this.bucket.value = bucket;
      this.changes.value += 1;
    };
    if (this.store.value.lines.size === 0) show();
    let version = store.version;
    const take = (event: SubscriptionEvent) => {
      this.calm();
      this.putOff = 0;
      if (event.type === "batch") this.take(store, event.batch, event.arrivalUs / 1000);
      else if (event.type === "latest") for (const batch of event.batches) this.take(store, batch, 0);
      else if (event.type === "series") {
        // What came after a range that stands still would push out what is looked at.
        store.takeSeries(event.columns, event.losses, this.cover);
      } else if (event.type === "caught-up") {
        show();
        this.caughtUp(store);
      } else if (event.type === "gap" && event.gap.reason === "reset") queueMicrotask(() => this.begin());
      if (event.type === "series" && this.begun) this.state.value = "live";
      if (store.version === version || this.store.value !== store) return;
      version = store.version;
      this.changes.value += 1;
    };
    const devices = this.devices.map(literally);
    const start =
      this.without.time && bucket === 0 ? ("snapshot" as const) : { timeUs: Math.round(begins * 1000) };
    const mode = bucket > 0 ? ("series" as const) : ("all" as const);
    this.subscriptions = [subscribe(connection, { devices, mode, start, intervalMs: bucket }, take)];
    const mine = this.subscriptions[0];
    this.deafen = connection.on("error", ({ subscription, error }) => {
      if (subscription === mine && error instanceof RefusedError) this.refused(error.code, bucket);
    });
  }

  /** What was asked for is refused, or has to wait. */
  private refused(code: Refusal, bucket: number): void {
    if (code === "limit" || code === "unavailable") {
      this.calm();
      // Pages that were refused together do not come back together.
      const later = Math.random() * Math.min(AGAIN_CAP_MS, 2000 * 2 ** this.putOff++);
      this.againTimer = setTimeout(() => this.begin(), later + (code === "limit" ? 1000 : WAITED_MS));
    } else if (code === "unsupported" || code === "bad request") {
      // A relay that does not make buckets is read in full; one that does not read from a time on gives the present state.
      if (bucket > 0 && !this.without.series) this.without.series = true;
      else if (!this.without.time) this.without.time = true;
      else return;
      this.begin();
    }
  }

  private caughtUp(store: Store): void {
    this.begun = true;
    if (store.lines.size > 0) {
      this.state.value = "live";
      return;
    }
    if (this.subscriptions.length > 1 || "from" in this.range) {
      this.state.value = "silent";
      return;
    }
    this.state.value = "silent";
    const newest = subscribe(
      this.connection!,
      { devices: this.devices.map(literally), mode: "latest", start: "snapshot" },
      (event) => {
        if (event.type !== "latest") return;
        for (const batch of event.batches) this.take(store, batch, 0);
        this.changes.value += 1;
        queueMicrotask(() => newest.close());
      },
    );
    this.subscriptions.push(newest);
  }

  private looked(): void {
    if (document.hidden) {
      this.hiddenTimer ??= setTimeout(() => {
        this.hiddenTimer = null;
        this.leave();
        this.cover = { from: 0, to: 0, bucket: -1 };
      }, HIDDEN_MS);
      return;
    }
    if (this.hiddenTimer !== null) clearTimeout(this.hiddenTimer);
    this.hiddenTimer = null;
    if (this.subscriptions.length === 0) this.begin();
  }

  private take(store: Store, batch: Parameters<Store["take"]>[0], arrival: number): void {
    const last = store.take(batch, arrival);
    if (!this.begun || arrival === 0) return;
    // Backlog is late by design: what counts is a batch that the relay got when it was fresh.
    if (arrival - last < 5000) this.latencies.add(Date.now() + clockOffset() - last);
    this.state.value = "live";
  }
}

/** A device's name as a glob that matches it alone. */
function literally(name: string): string {
  return name.replace(/[*?[\]{}]/g, "[$&]");
}
