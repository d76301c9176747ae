/** Several series → one chart's columns: at most a few points a pixel, gaps as such. Pure. */

import type { Series } from "./series";

/** Times and, a series each, values: undefined is "not sampled then", null is a gap. As uPlot wants them. */
export interface Plot {
  times: number[];
  values: (number | null | undefined)[][];
  /** Stretches in which no series has readings though it should. */
  gaps: [number, number][];
}

/** Longer without readings than this many usual steps, and than a batch may take, is a gap. */
const GAP_STEPS = 4;
const GAP_AT_LEAST_MS = 1500;

/** How long without a reading makes a gap for this series. */
export function gapAfter(series: Series): number {
  const cadence = series.cadence();
  return Number.isNaN(cadence) ? Number.POSITIVE_INFINITY : Math.max(GAP_AT_LEAST_MS, cadence * GAP_STEPS);
}

/** What to draw from `from` to `to` (milliseconds) on `pixels`. */
export function plot(all: Series[], from: number, to: number, pixels: number): Plot {
  let most = 0;
  const ranges = all.map((series) => {
    // One reading beyond either edge, so that lines leave the picture instead of ending in it.
    const start = Math.max(0, series.from(from) - 1);
    const end = Math.min(series.length, series.from(to) + 1);
    most = Math.max(most, end - start);
    return [start, end] as const;
  });
  return most > pixels * 2 ? buckets(all, ranges, from, to, pixels) : union(all, ranges);
}

function union(all: Series[], ranges: (readonly [number, number])[]): Plot {
  const times: number[] = [];
  const values: (number | null | undefined)[][] = all.map(() => []);
  const gaps: [number, number][] = [];
  const limits = all.map(gapAfter);
  const at = ranges.map(([start]) => start);
  const last = all.map(() => Number.NaN);
  for (;;) {
    let now = Number.POSITIVE_INFINITY;
    for (let s = 0; s < all.length; s++) {
      if (at[s] < ranges[s][1]) now = Math.min(now, all[s].times[at[s]]);
    }
    if (now === Number.POSITIVE_INFINITY) break;
    // A series that is silent for too long gets a null in between; it breaks the line.
    let breaks = false;
    for (let s = 0; s < all.length; s++) {
      const due = at[s] < ranges[s][1] && all[s].times[at[s]] === now;
      if (due && now - last[s] > limits[s]) breaks = true;
    }
    if (breaks) {
      times.push(now - 0.5);
      let shared = true;
      let since = 0;
      for (let s = 0; s < all.length; s++) {
        const due = at[s] < ranges[s][1] && all[s].times[at[s]] === now;
        const gap = due && now - last[s] > limits[s];
        values[s].push(gap ? null : undefined);
        if (!Number.isNaN(last[s])) since = Math.max(since, last[s]);
        if (!gap && now - last[s] <= limits[s]) shared = false;
      }
      if (shared && since > 0) gaps.push([since, now]);
    }
    times.push(now);
    for (let s = 0; s < all.length; s++) {
      if (at[s] < ranges[s][1] && all[s].times[at[s]] === now) {
        values[s].push(finite(all[s].values[at[s]]));
        last[s] = now;
        // Several readings of one time: the last stands.
        do at[s] += 1;
        while (at[s] < ranges[s][1] && all[s].times[at[s]] === now);
      } else {
        values[s].push(undefined);
      }
    }
  }
  return { times, values, gaps };
}

function buckets(
  all: Series[],
  ranges: (readonly [number, number])[],
  from: number,
  to: number,
  pixels: number,
): Plot {
  // Buckets on a fixed grid, so that a scrolling chart does not shimmer.
  const width = Math.max(1, Math.ceil((to - from) / pixels));
  const first = Math.floor(from / width) - 1;
  const size = Math.ceil((to - from) / width) + 3;
  const times: number[] = new Array(size * 2);
  for (let b = 0; b < size; b++) {
    times[b * 2] = (first + b + 0.25) * width;
    times[b * 2 + 1] = (first + b + 0.75) * width;
  }
  const values = all.map((series, s) => {
    const out: (number | null | undefined)[] = new Array(size * 2).fill(undefined);
    const limit = gapAfter(series);
    let last = Number.NaN;
    for (let i = ranges[s][0]; i < ranges[s][1]; ) {
      const b = Math.floor(series.times[i] / width) - first;
      let least = Number.POSITIVE_INFINITY;
      let most = Number.NEGATIVE_INFINITY;
      let rises = true;
      const begun = series.times[i];
      for (; i < ranges[s][1] && Math.floor(series.times[i] / width) - first === b; i++) {
        const value = series.values[i];
        if (value < least) {
          least = value;
          rises = false;
        }
        if (value > most) {
          most = value;
          rises = true;
        }
      }
      if (b > 0 && b < size && begun - last > limit) out[b * 2 - 1] = null;
      last = series.times[i - 1];
      if (b < 0 || b >= size || least === Number.POSITIVE_INFINITY) continue;
      out[b * 2] = rises ? least : most;
      out[b * 2 + 1] = rises ? most : least;
    }
    return out;
  });
  // A gap is where every series has one, so the first series' silences are looked at by the others.
  const gaps: [number, number][] = [];
  let since = Number.NaN;
  const limit = Math.max(...all.map(gapAfter).filter(Number.isFinite), GAP_AT_LEAST_MS);
  for (let i = 0; i < times.length; i++) {
    if (!values.some((column) => typeof column[i] === "number")) continue;
    if (times[i] - since > limit + width) gaps.push([since, times[i]]);
    since = times[i];
  }
  return { times, values, gaps };
}

function finite(value: number): number | null {
  return Number.isFinite(value) ? value : null;
}
