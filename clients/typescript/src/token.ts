/** The token of a connection: had when it is needed, replaced before it expires. */

import { PATIENCE_MS, within } from "./patience.js";

/** How long before its end a token is replaced, milliseconds; of a short-lived one half its life. A hidden page's timers come a minute late. */
const REFRESH_BEFORE_MS = 120_000;
/** Between two attempts, at least and at most. */
const RETRY_MS = [50, 15_000];
/** setTimeout counts in 31 bits: a token that lives longer than 24 days is looked at again then. */
const LONGEST_MS = 2 ** 31 - 1;

export type TokenSource = string | (() => string | Promise<string>);

export class TokenKeeper {
  private readonly source: TokenSource;
  private timer: ReturnType<typeof setTimeout> | null = null;
  /** Counts what was begun, so that a token that comes too late is known. */
  private turn = 0;

  constructor(source: TokenSource = "") {
    this.source = source;
  }

  /** Whether another one can be had when this one is refused. */
  get renewable(): boolean {
    return typeof this.source === "function";
  }

  async get(): Promise<string> {
    const { source } = this;
    return typeof source === "function" ? within(PATIENCE_MS, "token", source()) : source;
  }

  /**
   * Brings a fresh token before this one expires (0: never), and tries again for as long as it has not. `now`: the
   * relay's clock, milliseconds.
   */
  keep(
    expiresUs: number,
    now: () => number,
    fresh: (token: string) => void,
    failed: (error: unknown) => void,
  ): void {
    this.stop();
    if (expiresUs === 0 || !this.renewable) return;
    const turn = this.turn;
    const left = () => expiresUs / 1000 - now();
    const wait = (ms: number) => {
      this.timer = setTimeout(attempt, Math.min(LONGEST_MS, Math.max(RETRY_MS[0], ms)));
    };
    const attempt = async () => {
      if (left() > REFRESH_BEFORE_MS * 2) {
        wait(left() - REFRESH_BEFORE_MS);
        return;
      }
      try {
        const token = await this.get();
        if (turn === this.turn) fresh(token);
      } catch (error) {
        if (turn !== this.turn) return;
        failed(error);
        if (left() > 0) wait(Math.min(RETRY_MS[1], left() / 4));
      }
    };
    wait(left() - Math.min(REFRESH_BEFORE_MS, left() / 2));
  }

  stop(): void {
    this.turn += 1;
    if (this.timer !== null) clearTimeout(this.timer);
    this.timer = null;
  }
}
