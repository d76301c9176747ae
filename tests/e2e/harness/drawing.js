import { execFileSync } from "node:child_process";
import { repository } from "./site.js";

/** From the commit's name: each commit draws something else; 1 where there is none. */
export function seedOfCommit() {
  try {
    const commit = execFileSync("git", ["rev-parse", "HEAD"], { cwd: repository, encoding: "utf8" });
    return Number.parseInt(commit.slice(0, 6), 16);
  } catch {
    return 1;
  }
}

/** xorshift32, from 0 to 1: the same for the same seed. */
export function drawing(seed) {
  let state = Math.imul(seed, 0x9e3779b9) | 1;
  const draw = () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
  // What it draws first is alike for seeds that are.
  for (let at = 0; at < 16; at++) draw();
  return draw;
}

/** A whole number from `from` on, below `to`. */
export const between = (random, from, to) => from + Math.floor(random() * (to - from));
