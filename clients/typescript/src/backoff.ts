/** Exponential backoff with full jitter: a fleet of pages must not come back in step. */

export interface BackoffOptions {
  /** The first delay's upper bound, milliseconds. Default 250. */
  baseMs?: number;
  /** The upper bound of all delays, milliseconds. Default 15,000. */
  capMs?: number;
}

export class Backoff {
  private readonly base: number;
  private readonly cap: number;
  private readonly random: () => number;
  attempt = 0;

  constructor(options: BackoffOptions = {}, random: () => number = Math.random) {
    this.base = options.baseMs ?? 250;
    this.cap = options.capMs ?? 15_000;
    this.random = random;
  }

  /** The next delay in milliseconds; `atLeastMs` is what the server asked for, jitter comes on top. */
  next(atLeastMs = 0): number {
    const bound = Math.min(this.cap, this.base * 2 ** this.attempt);
    this.attempt += 1;
    return atLeastMs + Math.floor(this.random() * bound);
  }

  reset(): void {
    this.attempt = 0;
  }
}
