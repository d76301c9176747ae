/** The newest of a stream of durations, and where their quantiles lie. */

/** Milliseconds. */
export interface Quantiles {
  p50: number;
  p90: number;
  p99: number;
  max: number;
  /** Of how many. */
  count: number;
}

export class Latency {
  private readonly values: Float64Array<ArrayBuffer>;
  private seen = 0;

  constructor(keep = 256) {
    this.values = new Float64Array(keep);
  }

  add(ms: number): void {
    this.values[this.seen % this.values.length] = ms;
    this.seen += 1;
  }

  /** Null: nothing was added yet. */
  quantiles(): Quantiles | null {
    const count = Math.min(this.seen, this.values.length);
    if (count === 0) return null;
    const sorted = this.values.slice(0, count).sort();
    const at = (share: number) => sorted[Math.min(count - 1, Math.floor(count * share))];
    return { p50: at(0.5), p90: at(0.9), p99: at(0.99), max: sorted[count - 1], count };
  }
}
