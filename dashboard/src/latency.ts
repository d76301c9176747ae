/** How long readings take from their sampling to this page: the latest of them, in the order they came. */

/** Below these bounds, milliseconds, the last open: what the inspector's histogram shows. */
export const BOUNDS = [20, 50, 100, 200, 500, 1000, 2000, 5000];
const MOST = 500;

export class Latencies {
  private readonly list: number[] = [];

  get length(): number {
    return this.list.length;
  }

  add(ms: number): void {
    this.list.push(ms);
    if (this.list.length > MOST) this.list.shift();
  }

  clear(): void {
    this.list.length = 0;
  }

  /** The value below which this share lies; NaN: there is none. */
  quantile(share: number): number {
    if (this.list.length === 0) return Number.NaN;
    const sorted = [...this.list].sort((a, b) => a - b);
    return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
  }

  /** How many lie below each bound and not below the one before; one more for the rest. */
  histogram(): number[] {
    const counts = new Array<number>(BOUNDS.length + 1).fill(0);
    for (const ms of this.list) {
      const at = BOUNDS.findIndex((bound) => ms < bound);
      counts[at < 0 ? BOUNDS.length : at] += 1;
    }
    return counts;
  }
}
