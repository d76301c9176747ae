/** One metric's readings as min, max and last per stretch of time: what SERIES brings, and what a long range is drawn from. Pure. */

/** As the client hands them out; times in microseconds. */
export interface BucketColumn {
  widthUs: number;
  starts: ArrayLike<number>;
  min: ArrayLike<number>;
  max: ArrayLike<number>;
  last: ArrayLike<number>;
  lastTimes: ArrayLike<number>;
  counts: ArrayLike<number>;
}

interface Bucket {
  /** Milliseconds. */
  start: number;
  width: number;
  min: number;
  max: number;
  last: number;
  lastTime: number;
  count: number;
}

/** More than a chart has pixels, by far. */
const MOST = 20_000;

/** Which of a column's buckets, first and end, touch a range, milliseconds. */
export function within(column: BucketColumn, from: number, to: number): [number, number] {
  const { starts, widthUs } = column;
  let first = 0;
  while (first < starts.length && starts[first] + widthUs <= from * 1000) first += 1;
  let end = first;
  while (end < starts.length && starts[end] < to * 1000) end += 1;
  return [first, end];
}

export class Buckets {
  /** Ascending by start, then width. */
  private list: Bucket[] = [];

  /** Readings behind all buckets. */
  get count(): number {
    return this.list.reduce((sum, bucket) => sum + bucket.count, 0);
  }

  /** A bucket that was told before is told what came since: they are joined. A wider one stands beside the narrower ones. */
  add(column: BucketColumn, first = 0, end = column.starts.length): void {
    const width = column.widthUs / 1000;
    for (let i = first; i < end; i++) {
      const start = column.starts[i] / 1000;
      const at = this.from(start, width);
      const made: Bucket = {
        start,
        width,
        min: column.min[i],
        max: column.max[i],
        last: column.last[i],
        lastTime: column.lastTimes[i] / 1000,
        count: column.counts[i],
      };
      const was = this.list[at];
      if (was?.start === start && was.width === width) join(was, made);
      else if (at === this.list.length) this.list.push(made);
      else this.list.splice(at, 0, made);
    }
    if (this.list.length > MOST) this.list.splice(0, this.list.length - MOST);
  }

  forget(before: number): void {
    const first = this.from(before, 0);
    if (first > 256) this.list.splice(0, first);
  }

  /** Up to three points a bucket, in order of time: one extreme, the other, the last reading. */
  points(): { times: Float64Array; values: Float64Array } {
    const points: [number, number][] = [];
    let sorted = true;
    const push = (time: number, value: number) => {
      if (points.length > 0 && points[points.length - 1][0] > time) sorted = false;
      points.push([time, value]);
    };
    for (const { start, min, max, last, lastTime, count } of this.list) {
      if (count > 1 && min !== max) {
        // Their order is not known; this one ends nearer to the last.
        const rises = Math.abs(last - max) <= Math.abs(last - min);
        push(start + (lastTime - start) * 0.3, rises ? min : max);
        push(start + (lastTime - start) * 0.65, rises ? max : min);
      }
      push(lastTime, last);
    }
    if (!sorted) points.sort((a, b) => a[0] - b[0]);
    return {
      times: Float64Array.from(points, (point) => point[0]),
      values: Float64Array.from(points, (point) => point[1]),
    };
  }

  /** The first that starts at or after a time, and is as wide or wider. */
  private from(time: number, width: number): number {
    let low = 0;
    let high = this.list.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      const each = this.list[middle];
      if (each.start < time || (each.start === time && each.width < width)) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

function join(into: Bucket, more: Bucket): void {
  into.min = Math.min(into.min, more.min);
  into.max = Math.max(into.max, more.max);
  into.count += more.count;
  if (more.lastTime < into.lastTime) return;
  into.last = more.last;
  into.lastTime = more.lastTime;
}
