/**
 * One metric's readings in memory: sorted by time, bounded, late ones put where they belong.
 *
 * When it is full its older half is thinned, four readings to the least and the greatest of them: a chart of a long window
 * keeps its shape, and a page left open for a month keeps its size.
 */

export class Series {
  /** Milliseconds since the Unix epoch, ascending. */
  times: Float64Array;
  values: Float64Array;
  length = 0;
  /** Grows with each change. */
  version = 0;
  private readonly capacity: number;

  constructor(capacity = 50_000) {
    this.capacity = capacity;
    this.times = new Float64Array(256);
    this.values = new Float64Array(256);
  }

  get lastTime(): number {
    return this.length > 0 ? this.times[this.length - 1] : Number.NaN;
  }

  get lastValue(): number {
    return this.length > 0 ? this.values[this.length - 1] : Number.NaN;
  }

  /** Takes a batch's column. Mostly it goes on where the last one ended. */
  add(times: Float64Array, values: ArrayLike<number>): void {
    if (times.length === 0) return;
    this.version += 1;
    let sorted = true;
    for (let i = 1; i < times.length && sorted; i++) sorted = times[i] >= times[i - 1];
    if (!sorted) {
      const order = Array.from(times.keys()).sort((a, b) => times[a] - times[b]);
      times = Float64Array.from(order, (i) => times[i]);
      const was = values;
      values = Float64Array.from(order, (i) => was[i]);
    }
    this.reserve(this.length + times.length);
    if (this.length === 0 || times[0] > this.times[this.length - 1]) {
      this.times.set(times, this.length);
      this.values.set(values as Float64Array, this.length);
      this.length += times.length;
    } else {
      this.merge(times, values);
    }
    while (this.length > this.capacity) this.thin();
  }

  /** These and nothing else, ascending in time. */
  replace(times: Float64Array, values: Float64Array): void {
    this.version += 1;
    this.length = 0;
    this.reserve(times.length);
    this.times.set(times);
    this.values.set(values);
    this.length = times.length;
  }

  /** The first index at or after a time. */
  from(time: number): number {
    let low = 0;
    let high = this.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.times[middle] < time) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Forgets what is older. */
  forget(before: number): void {
    const first = this.from(before);
    // Moving everything for a few readings is not worth it.
    if (first < 1024 && first < this.length) return;
    this.times.copyWithin(0, first, this.length);
    this.values.copyWithin(0, first, this.length);
    this.length -= first;
  }

  /**
   * The usual time between readings: the median of the latest. NaN below three readings.
   */
  cadence(): number {
    const from = Math.max(1, this.length - 64);
    const steps: number[] = [];
    for (let i = from; i < this.length; i++) steps.push(this.times[i] - this.times[i - 1]);
    if (steps.length < 2) return Number.NaN;
    steps.sort((a, b) => a - b);
    return steps[steps.length >> 1];
  }

  private merge(times: Float64Array, values: ArrayLike<number>): void {
    // From the end backwards, in place; a reading that is here already is not doubled.
    let old = this.length - 1;
    let fresh = times.length - 1;
    let to = this.length + times.length - 1;
    while (fresh >= 0) {
      const same =
        old >= 0 && this.times[old] === times[fresh] && Object.is(this.values[old], Number(values[fresh]));
      if (same) {
        this.times[to] = this.times[old];
        this.values[to] = this.values[old];
        old -= 1;
        fresh -= 1;
      } else if (old >= 0 && this.times[old] > times[fresh]) {
        this.times[to] = this.times[old];
        this.values[to] = this.values[old];
        old -= 1;
      } else {
        this.times[to] = times[fresh];
        this.values[to] = Number(values[fresh]);
        fresh -= 1;
      }
      to -= 1;
    }
    // What was found twice leaves a hole between the untouched head and the merged tail.
    const hole = to - old;
    const end = this.length + times.length;
    if (hole > 0) {
      this.times.copyWithin(old + 1, to + 1, end);
      this.values.copyWithin(old + 1, to + 1, end);
    }
    this.length = end - hole;
  }

  private reserve(length: number): void {
    if (length <= this.times.length) return;
    const size = Math.max(length, this.times.length * 2);
    const times = new Float64Array(size);
    const values = new Float64Array(size);
    times.set(this.times.subarray(0, this.length));
    values.set(this.values.subarray(0, this.length));
    this.times = times;
    this.values = values;
  }

  private thin(): void {
    const half = (this.length >> 3) << 2;
    let to = 0;
    for (let i = 0; i < half; i += 4) {
      let least = i;
      let most = i;
      for (let j = i + 1; j < i + 4; j++) {
        if (this.values[j] < this.values[least]) least = j;
        if (this.values[j] > this.values[most]) most = j;
      }
      const first = Math.min(least, most);
      const second = least === most ? i + 3 : Math.max(least, most);
      for (const j of [first, second]) {
        this.times[to] = this.times[j];
        this.values[to] = this.values[j];
        to += 1;
      }
    }
    this.times.copyWithin(to, half, this.length);
    this.values.copyWithin(to, half, this.length);
    this.length -= half - to;
  }
}
