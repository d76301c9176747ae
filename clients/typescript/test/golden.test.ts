/** The batches that the Rust codec wrote, and what it says is in them: proto/tests/golden. */

import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { type Column, decodeBatch } from "../src/batch.js";

const folder = fileURLToPath(new URL("../../../proto/tests/golden/", import.meta.url));
const names = readdirSync(folder)
  .filter((name) => name.endsWith(".pb"))
  .map((name) => name.slice(0, -3));

interface Golden {
  device: string;
  stream: string;
  seq: string;
  clock?: string;
  times?: string[][];
  columns?: {
    metric: string;
    unit: string;
    type: string;
    times: number;
    suspect: number[];
    values: unknown[];
  }[];
  loss?: { through: string; readings: string; reason: string };
}

const bits = (value: number) => new BigUint64Array(Float64Array.of(value).buffer)[0];

/** A value as bits, integer, truth or text: comparable for each type. */
function expected(type: string, value: unknown): unknown {
  if (type === "F64") return typeof value === "string" ? BigInt(value) : bits(value as number);
  if (type === "I64") return BigInt(value as string);
  return value;
}

function actual(column: Column): unknown[] {
  switch (column.type) {
    case "f64":
      return [...new BigUint64Array(column.values.buffer)];
    case "i64":
      return Array.from(column.values as Iterable<number | bigint>, BigInt);
    case "bool":
      return Array.from(column.values, Boolean);
    case "string":
      return column.values;
  }
}

describe("golden batches", () => {
  it("are all read here", () => {
    expect(names.length).toBeGreaterThanOrEqual(5);
    const told = readdirSync(folder).filter((name) => name.endsWith(".json"));
    expect(names.map((name) => `${name}.json`).sort()).toEqual(told.sort());
  });

  it.each(names)("%s", (name) => {
    const golden = JSON.parse(readFileSync(`${folder}${name}.json`, "utf8")) as Golden;
    const batch = decodeBatch(new Uint8Array(readFileSync(`${folder}${name}.pb`)));
    expect(batch.device).toBe(golden.device);
    expect(batch.stream).toBe(BigInt(`0x${golden.stream}`));
    expect(batch.seq).toBe(BigInt(golden.seq));
    expect(batch.clock).toBe((golden.clock ?? "Synchronised").toLowerCase());
    expect(batch.columns).toHaveLength(golden.columns?.length ?? 0);
    for (const [i, column] of (golden.columns ?? []).entries()) {
      const got = batch.columns[i];
      expect(got).toMatchObject({
        metric: column.metric,
        unit: column.unit,
        type: column.type.toLowerCase(),
      });
      expect([...got.suspect]).toEqual(column.suspect);
      expect([...got.times]).toEqual(golden.times?.[column.times].map(Number));
      expect(actual(got)).toEqual(column.values.map((value) => expected(column.type, value)));
    }
    if (golden.loss) {
      const { through, readings, reason } = golden.loss;
      const words = reason.replace(/(?!^)[A-Z]/g, (letter) => ` ${letter}`).toLowerCase();
      expect(batch.loss).toEqual({ through: BigInt(through), readings: Number(readings), reason: words });
    } else {
      expect(batch.loss).toBeUndefined();
    }
  });
});
