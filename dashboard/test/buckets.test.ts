import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Buckets } from "../src/buckets";

interface Reading {
  at: number;
  value: number;
}

/** What a gateway tells of some readings, in buckets of a width (milliseconds). */
function told(readings: Reading[], width: number) {
  const buckets = new Map<number, Reading[]>();
  for (const reading of readings) {
    const start = Math.floor(reading.at / width) * width;
    buckets.set(start, [...(buckets.get(start) ?? []), reading]);
  }
  const starts = [...buckets.keys()].sort((a, b) => a - b);
  const of = starts.map((start) => [...buckets.get(start)!].sort((a, b) => a.at - b.at));
  const values = of.map((some) => some.map(({ value }) => value));
  return {
    widthUs: width * 1000,
    starts: starts.map((start) => start * 1000),
    min: values.map((some) => Math.min(...some)),
    max: values.map((some) => Math.max(...some)),
    last: of.map((some) => some.at(-1)!.value),
    lastTimes: of.map((some) => some.at(-1)!.at * 1000),
    counts: of.map((some) => some.length),
  };
}

const distinct = fc
  .uniqueArray(fc.nat(5000), { minLength: 1, maxLength: 60 })
  .chain((times) =>
    fc.tuple(
      ...times.map((at) => fc.record({ at: fc.constant(at), value: fc.integer({ min: -9, max: 9 }) })),
    ),
  );

describe("buckets", () => {
  it("told in any number of pieces are as told at once", () => {
    fc.assert(
      fc.property(distinct, fc.array(fc.nat(3), { minLength: 60, maxLength: 60 }), (readings, parts) => {
        const [whole, pieces] = [new Buckets(), new Buckets()];
        whole.add(told(readings, 1000));
        for (let part = 0; part <= 3; part++)
          pieces.add(
            told(
              readings.filter((_, i) => parts[i] === part),
              1000,
            ),
          );
        expect(pieces.points()).toEqual(whole.points());
        expect(pieces.count).toBe(readings.length);
      }),
    );
  });

  it("of several widths give points in order of time, every extreme and the last value among them", () => {
    fc.assert(
      fc.property(distinct, distinct, (narrow, wide) => {
        const buckets = new Buckets();
        buckets.add(told(narrow, 500));
        buckets.add(told(wide, 2000));
        const { times, values } = buckets.points();
        expect([...times]).toEqual([...times].sort((a, b) => a - b));
        const all = [...narrow, ...wide].map(({ value }) => value);
        expect(Math.min(...values)).toBe(Math.min(...all));
        expect(Math.max(...values)).toBe(Math.max(...all));
      }),
    );
  });

  it("stay bounded", () => {
    const buckets = new Buckets();
    for (let i = 0; i < 50; i++)
      buckets.add(
        told(
          Array.from({ length: 1000 }, (_, j) => ({ at: i * 1000 + j, value: j })),
          1,
        ),
      );
    expect(buckets.count).toBe(20_000);
  });
});
