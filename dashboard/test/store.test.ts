import type { Batch, Column } from "@headwater/client";
import { describe, expect, it } from "vitest";
import { Latencies } from "../src/latency";
import { Store } from "../src/store";

const column = (times: number[], values: number[], suspect: number[] = []): Column => ({
  metric: "m",
  unit: "Cel",
  type: "f64",
  times: Float64Array.from(times, (ms) => ms * 1000),
  values: Float64Array.from(values),
  suspect: Uint32Array.from(suspect),
});
const batch = (seq: number, columns: Column[], more: Partial<Batch> = {}): Batch => ({
  device: "a",
  stream: 1n,
  seq: BigInt(seq),
  columns,
  clock: "synchronised",
  ...more,
});
const loss = (seq: number, readings: number, reason: "journal full" | "corrupt" = "journal full") =>
  batch(seq, [], { loss: { through: BigInt(seq), readings, reason } });

describe("a store", () => {
  it("keeps what touches the range that is looked at, however much comes after it", () => {
    const store = new Store();
    const count = 30_000;
    const ones = () => new Float64Array(count).fill(1);
    const starts = Float64Array.from({ length: count }, (_, i) => i * 1000);
    const series = {
      device: "a",
      metric: "m",
      unit: "Cel",
      widthUs: 1000,
      starts,
      min: ones(),
      max: ones(),
      last: Float64Array.from(starts, (start) => start / 1000),
      lastTimes: starts,
      counts: new Uint32Array(count).fill(1),
    };
    store.takeSeries([series], [], { from: 5, to: 10 });
    store.takeSeries([{ ...series, metric: "later", starts: starts.map((start) => start + 10_000) }], [], {
      from: 5,
      to: 10,
    });
    const [line, ...others] = store.lines.values();
    expect([...line.series!.values.subarray(0, line.series!.length)]).toEqual([5, 6, 7, 8, 9]);
    expect(others).toEqual([]);
  });

  it("keeps suspect readings beside the line, not in it", () => {
    const store = new Store();
    store.take(batch(1, [column([10, 20, 30], [21, 85, 22], [1])]), 40);
    const [line] = store.lines.values();
    expect([...line.series!.values.subarray(0, line.series!.length)]).toEqual([21, 22]);
    expect(line.suspects).toEqual([[20, 85]]);
  });

  it("knows a loss from the reading before it to the one after it, several in a row as one", () => {
    const store = new Store();
    store.take(batch(1, [column([10, 20], [1, 2])]), 25);
    store.take(loss(2, 5), 30);
    store.take(loss(3, 7), 31);
    expect(store.losses).toEqual([
      { device: "a", from: 20, to: Number.NaN, readings: 12, reason: "journal full" },
    ]);
    store.take(batch(4, [column([90], [3])]), 95);
    expect(store.losses).toMatchObject([{ from: 20, to: 90, readings: 12 }]);
  });

  it("keeps losses of different reasons and streams apart", () => {
    const store = new Store();
    store.take(batch(1, [column([10], [1])]), 11);
    store.take({ ...batch(1, [column([12], [1])]), stream: 2n }, 13);
    store.take(loss(2, 1), 20);
    store.take(loss(3, 2, "corrupt"), 21);
    store.take({ ...loss(2, 4), stream: 2n }, 22);
    store.take(batch(4, [column([50], [1])]), 51);
    expect(store.losses.map(({ readings, from, to }) => [readings, from, to])).toEqual([
      [1, 10, 10],
      [2, 10, 50],
      [4, 12, Number.NaN],
    ]);
  });

  it("marks a loss before anything else of its stream where it was told", () => {
    const store = new Store();
    store.take(loss(1, 9), 1000);
    expect(store.losses).toMatchObject([{ from: 1000, to: 1000, readings: 9 }]);
  });
});

describe("latencies", () => {
  it("have quantiles and a histogram of the newest", () => {
    const latencies = new Latencies();
    expect(latencies.quantile(0.5)).toBeNaN();
    for (let i = 0; i < 600; i++) latencies.add(i < 100 ? 9999 : 30);
    latencies.add(300);
    expect(latencies.length).toBe(500);
    expect(latencies.quantile(0.5)).toBe(30);
    expect(latencies.histogram()).toEqual([0, 499, 0, 0, 1, 0, 0, 0, 0]);
  });
});
