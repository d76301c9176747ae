/** The range that a page of charts looks at: moved by hand or key, followed by the address once it rests. */

import { type Signal, signal } from "@preact/signals";
import { now } from "./link";
import { bounded, type ChartsRoute, go, lengthOf, type Range, route, USUAL_MINUTES } from "./route";

/** A hand that moves passes many ranges; the address (and so the back button) takes the one it rests at. */
const REST_MS = 400;

export class ChartsSight {
  readonly range: Signal<Range>;
  private timer: ReturnType<typeof setTimeout> | null = null;

  constructor(range: Range) {
    this.range = signal(range);
  }

  edges(): [number, number] {
    const range = this.range.peek();
    if ("from" in range) return [range.from, range.to];
    const end = now();
    return [end - lengthOf(range), end];
  }

  show(from: number, to: number): void {
    this.range.value = bounded({ from, to }, now());
    if (this.timer !== null) clearTimeout(this.timer);
    this.timer = setTimeout(() => this.settle(), REST_MS);
  }

  live(): void {
    this.range.value = { minutes: USUAL_MINUTES };
    this.settle();
  }

  /** By a factor about the middle; what is live stays live. */
  zoom(factor: number): void {
    const range = this.range.peek();
    const [from, to] = this.edges();
    if ("minutes" in range) this.show(to - (to - from) * factor, to);
    else this.show(from + ((to - from) * (1 - factor)) / 2, to - ((to - from) * (1 - factor)) / 2);
  }

  /** By a share of its length: below 0 into the past. */
  pan(share: number): void {
    const [from, to] = this.edges();
    this.show(from + (to - from) * share, to + (to - from) * share);
  }

  /** The address has another range: the back button, a link. */
  follow(range: Range): void {
    if (this.timer !== null || JSON.stringify(range) === JSON.stringify(this.range.peek())) return;
    this.range.value = range;
  }

  close(): void {
    if (this.timer !== null) clearTimeout(this.timer);
    this.timer = null;
  }

  private settle(): void {
    this.close();
    const here = route.peek();
    if (here.page !== "fleet") go({ ...here, range: this.range.peek() } satisfies ChartsRoute);
  }
}
