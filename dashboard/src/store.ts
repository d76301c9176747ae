/** What subscriptions brought of some devices: a line per device and metric, texts, and what was lost. */

import type { Batch, Column, SeriesColumn, SeriesLoss } from "@headwater/client";
import { Buckets, within } from "./buckets";
import { Series } from "./series";

/** One metric of one device: numeric ones have a series, texts only their newest value. */
export interface Line {
  device: string;
  metric: string;
  unit: string;
  kind: Column["type"];
  series: Series | null;
  /** Where the series is made of buckets. */
  buckets: Buckets | null;
  /** Readings that their source took for implausible: [milliseconds, value], not part of the series. */
  suspects: [number, number][];
  text: string;
  /** Milliseconds. */
  textTime: number;
}

/** A stretch of time that the agent had to give up. `to` is not known until the next batch of the stream. */
export interface Lost {
  device: string;
  from: number;
  to: number;
  readings: number;
  reason: string;
}

const MOST_SUSPECTS = 5000;

export class Store {
  readonly lines = new Map<string, Line>();
  readonly losses: Lost[] = [];
  /** Grows with each change of what is there, not of what it says. */
  version = 0;
  private readonly lastTimes = new Map<bigint, number>();
  private readonly open = new Map<bigint, Lost>();

  /** Takes a batch; the time of its newest reading, milliseconds, or NaN. */
  take(batch: Batch, arrival: number): number {
    if (batch.loss) {
      const from = this.lastTimes.get(batch.stream) ?? (arrival > 0 ? arrival : Number.NaN);
      const { readings, reason } = batch.loss;
      this.version += 1;
      const goesOn = this.open.get(batch.stream);
      if (goesOn?.reason === reason) {
        goesOn.readings += readings;
        return Number.NaN;
      }
      const lost: Lost = { device: batch.device, from, to: Number.NaN, readings, reason };
      // Nothing of its stream has been seen: when it was told is all there is to mark.
      if (!this.lastTimes.has(batch.stream)) lost.to = from;
      else {
        if (goesOn) goesOn.to = from;
        this.open.set(batch.stream, lost);
      }
      this.losses.push(lost);
      return Number.NaN;
    }
    let first = Number.POSITIVE_INFINITY;
    let last = Number.NEGATIVE_INFINITY;
    for (const column of batch.columns) {
      if (column.times.length === 0) continue;
      const times = column.times.map((us) => us / 1000);
      first = Math.min(first, times[0]);
      last = Math.max(last, times[times.length - 1]);
      this.column(batch.device, column, times);
    }
    const open = this.open.get(batch.stream);
    if (open && first !== Number.POSITIVE_INFINITY) {
      open.to = first;
      this.open.delete(batch.stream);
    }
    if (last === Number.NEGATIVE_INFINITY) return Number.NaN;
    this.lastTimes.set(batch.stream, last);
    return last;
  }

  /** Buckets outside of the range are left out. */
  takeSeries(
    columns: readonly SeriesColumn[],
    losses: readonly SeriesLoss[],
    { from, to }: { from: number; to: number } = {
      from: Number.NEGATIVE_INFINITY,
      to: Number.POSITIVE_INFINITY,
    },
  ): void {
    const touched = new Set<Line>();
    for (const column of columns) {
      const [first, end] = within(column, from, to);
      if (first === end) continue;
      const line = this.line(column.device, column.metric, column.unit, "f64");
      line.buckets ??= new Buckets();
      line.buckets.add(column, first, end);
      touched.add(line);
    }
    for (const { buckets, series } of touched) {
      const { times, values } = buckets!.points();
      series?.replace(times, values);
    }
    for (const { device, readings, firstArrivalUs, lastArrivalUs } of losses) {
      // When it was sampled is not told: the mark stands where the relay was told of it.
      this.losses.push({
        device,
        from: firstArrivalUs / 1000,
        to: lastArrivalUs / 1000,
        readings,
        reason: "",
      });
      this.version += 1;
    }
  }

  /** Forgets what is out of sight for good. */
  forget(before: number): void {
    for (const line of this.lines.values()) {
      line.buckets?.forget(before);
      line.series?.forget(before);
      while (line.suspects.length > 0 && line.suspects[0][0] < before) line.suspects.shift();
    }
    while (this.losses.length > 0 && this.losses[0].to < before) this.losses.shift();
  }

  private line(device: string, metric: string, unit: string, kind: Column["type"]): Line {
    const key = `${device}\n${metric}`;
    let line = this.lines.get(key);
    if (!line) {
      const series = kind === "string" ? null : new Series();
      line = { device, metric, unit, kind, series, buckets: null, suspects: [], text: "", textTime: 0 };
      this.lines.set(key, line);
      this.version += 1;
    }
    return line;
  }

  private column(device: string, column: Column, times: Float64Array): void {
    const line = this.line(device, column.metric, column.unit, column.type);
    if (column.type === "string") {
      const time = times[times.length - 1];
      if (time < line.textTime) return;
      line.text = column.values[column.values.length - 1];
      line.textTime = time;
      this.version += 1;
      return;
    }
    if (!line.series) return;
    const values =
      column.values instanceof BigInt64Array ? Float64Array.from(column.values, Number) : column.values;
    if (column.suspect.length === 0) {
      line.series.add(times, values);
      return;
    }
    const doubted = new Set(column.suspect);
    for (const i of doubted) line.suspects.push([times[i], values[i]]);
    line.suspects.sort((a, b) => a[0] - b[0]);
    if (line.suspects.length > MOST_SUSPECTS) line.suspects.splice(0, line.suspects.length - MOST_SUSPECTS);
    line.series.add(
      times.filter((_, i) => !doubted.has(i)),
      Float64Array.from(values).filter((_, i) => !doubted.has(i)),
    );
  }
}
