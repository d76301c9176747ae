/** How tests wait: for a condition, with a limit; never for a time. */

import { setTimeout as sleep } from "node:timers/promises";

/**
 * Calls `check` until it returns something truthy, and returns that. What it throws counts as "not yet"; the last
 * error is part of the message when the limit (milliseconds) has passed.
 */
export async function until(what, check, limit = 30_000) {
  const deadline = performance.now() + limit;
  let last;
  for (;;) {
    try {
      last = await check();
      if (last) return last;
    } catch (error) {
      if (error instanceof GivenUp) throw error;
      last = error;
    }
    if (performance.now() > deadline) {
      const seen = last instanceof Error ? `; last: ${last.message}` : "";
      throw new Error(`waited ${limit / 1000} s in vain until ${what}${seen}`);
    }
    await sleep(25);
  }
}

/** Thrown by a check that knows its condition can no longer come true. */
export class GivenUp extends Error {}
