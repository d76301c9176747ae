import { describe, expect, it } from "vitest";
import { plot } from "../src/plot";
import { Series } from "../src/series";

function series(times: number[], value: (time: number) => number = (time) => time): Series {
  const made = new Series();
  made.add(Float64Array.from(times), times.map(value));
  return made;
}

const every = (step: number, from: number, to: number) =>
  Array.from({ length: Math.floor((to - from) / step) }, (_, i) => from + i * step);

describe("a plot", () => {
  it("joins series that were sampled at different times", () => {
    const { times, values, gaps } = plot([series([1000, 2000, 3000]), series([1000, 2500])], 0, 4000, 500);
    expect(times).toEqual([1000, 2000, 2500, 3000]);
    expect(values).toEqual([
      [1000, 2000, undefined, 3000],
      [1000, undefined, 2500, undefined],
    ]);
    expect(gaps).toEqual([]);
  });

  it("breaks the line where readings are missing, and closes it when they came", () => {
    const before = every(1000, 0, 20_000);
    const after = every(1000, 40_000, 60_000);
    const late = every(1000, 20_000, 40_000);
    const one = series([...before, ...after]);
    const broken = plot([one], 0, 60_000, 500);
    expect(broken.gaps).toEqual([[19_000, 40_000]]);
    expect(broken.values[0].filter((value) => value === null)).toHaveLength(1);
    one.add(Float64Array.from(late), late);
    const whole = plot([one], 0, 60_000, 500);
    expect(whole.gaps).toEqual([]);
    expect(whole.values[0]).not.toContain(null);
    expect(whole.times).toHaveLength(60);
  });

  it("keeps extremes when there are more readings than pixels, and gaps", () => {
    const times = [...every(10, 0, 200_000), ...every(10, 260_000, 300_000)];
    const dense = series(times, (time) => (time === 123_450 ? 99 : Math.sin(time / 1e4)));
    const { times: at, values, gaps } = plot([dense], 0, 300_000, 300);
    expect(at.length).toBeLessThanOrEqual(620);
    expect(values[0]).toContain(99);
    expect(gaps).toHaveLength(1);
    expect(gaps[0][0]).toBeGreaterThan(198_000);
    expect(gaps[0][1]).toBeLessThan(262_000);
    expect(values[0]).toContain(null);
  });

  it("draws NaN and infinities as breaks", () => {
    expect(plot([series([1, 2, 3], (t) => (t === 2 ? Number.NaN : t))], 0, 4, 100).values[0]).toEqual([
      1,
      null,
      3,
    ]);
  });

  it("is empty without readings", () => {
    expect(plot([series([])], 0, 10, 100)).toEqual({ times: [], values: [[]], gaps: [] });
  });
});
