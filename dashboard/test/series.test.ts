import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Series } from "../src/series";

const readings = fc.array(fc.tuple(fc.integer({ min: 0, max: 300 }), fc.integer({ min: 0, max: 5 })), {
  maxLength: 60,
});
const held = (series: Series) =>
  [...series.times.subarray(0, series.length)].map((time, i) => [time, series.values[i]]);

describe("a series", () => {
  it("holds every reading once, in order of time, however late batches come", () => {
    fc.assert(
      fc.property(fc.array(readings, { maxLength: 8 }), (batches) => {
        const series = new Series();
        // Within a batch a (time, value) may repeat; across batches it is the same reading again.
        const seen = new Set<string>();
        const expected: [number, number][] = [];
        for (const batch of batches) {
          const unique = batch.filter(
            (reading, i) => batch.findIndex((other) => `${other}` === `${reading}`) === i,
          );
          const fresh = unique.filter((reading) => !seen.has(`${reading}`));
          for (const reading of fresh) {
            seen.add(`${reading}`);
            expected.push(reading);
          }
          series.add(
            Float64Array.from(fresh, (r) => r[0]),
            Float64Array.from(fresh, (r) => r[1]),
          );
        }
        const times = [...series.times.subarray(0, series.length)];
        expect(times).toEqual([...times].sort((a, b) => a - b));
        const byBoth = (a: number[], b: number[]) => a[0] - b[0] || a[1] - b[1];
        expect(held(series).sort(byBoth)).toEqual(expected.sort(byBoth));
      }),
      { numRuns: 300 },
    );
  });

  it("takes a batch that it has already without doubling it", () => {
    const series = new Series();
    series.add(Float64Array.of(1, 2, 3, 4), [1, 2, 3, 4]);
    series.add(Float64Array.of(2, 2.5, 3), [2, 2.5, 3]);
    expect(held(series)).toEqual([
      [1, 1],
      [2, 2],
      [2.5, 2.5],
      [3, 3],
      [4, 4],
    ]);
  });

  it("stays bounded, keeps its newest readings and its extremes", () => {
    const series = new Series(1000);
    for (let i = 0; i < 200; i++) {
      const times = Float64Array.from({ length: 100 }, (_, j) => i * 100 + j);
      series.add(
        times,
        times.map((time) => (time === 777 ? 1e6 : Math.sin(time))),
      );
    }
    expect(series.length).toBeLessThanOrEqual(1000);
    expect(series.lastTime).toBe(19_999);
    const times = [...series.times.subarray(0, series.length)];
    expect(times).toEqual([...times].sort((a, b) => a - b));
    expect(series.values.subarray(0, series.length)).toContain(1e6);
    expect(times.slice(-100)).toEqual(Array.from({ length: 100 }, (_, i) => 19_900 + i));
  });

  it("forgets what is too old", () => {
    const series = new Series();
    series.add(
      Float64Array.from({ length: 5000 }, (_, i) => i),
      new Float64Array(5000),
    );
    series.forget(3000);
    expect(series.length).toBe(2000);
    expect(series.times[0]).toBe(3000);
  });
});
