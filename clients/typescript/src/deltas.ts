/**
 * Zigzag varints and their running sums, in doubles as long as everything is exact there.
 *
 * Each function comes in two forms: over doubles, giving up (null) as soon as a value could pass ±(2^53 - 1), and
 * over BigInt with 64-bit wrapping. Real readings never need the second; a counter near 2^63 does.
 */

import { DecodeError, Reader } from "./reader.js";

const SAFE = Number.MAX_SAFE_INTEGER;

/** The zigzag varints of `bytes` (which end whole) as doubles, or null if one has more than 49 bits. */
export function smallDeltas(bytes: Uint8Array, count: number): Float64Array<ArrayBuffer> | null {
  const out = new Float64Array(count);
  let pos = 0;
  for (let i = 0; i < count; i++) {
    let byte = bytes[pos++];
    let raw = byte & 0x7f;
    if (byte >= 0x80) {
      byte = bytes[pos++];
      raw |= (byte & 0x7f) << 7;
      if (byte >= 0x80) {
        byte = bytes[pos++];
        raw |= (byte & 0x7f) << 14;
        if (byte >= 0x80) {
          byte = bytes[pos++];
          raw |= (byte & 0x7f) << 21;
          if (byte >= 0x80) {
            // 28 bits are read; the others join as doubles.
            let wide = raw;
            let unit = 2 ** 28;
            do {
              if (unit > 2 ** 42) return null;
              byte = bytes[pos++];
              wide += (byte & 0x7f) * unit;
              unit *= 128;
            } while (byte >= 0x80);
            out[i] = wide % 2 === 0 ? wide / 2 : -(wide + 1) / 2;
            continue;
          }
        }
      }
    }
    out[i] = (raw >>> 1) ^ -(raw & 1);
  }
  return out;
}

/** The same by BigInt; refuses a varint of more than ten bytes. */
export function bigDeltas(bytes: Uint8Array, count: number): BigInt64Array<ArrayBuffer> {
  const out = new BigInt64Array(count);
  const reader = new Reader(bytes);
  for (let i = 0; i < count; i++) out[i] = reader.sint64();
  return out;
}

/** factor × Σ deltas[0..=i], in place of `deltas`; null where one is not exact in a double. */
export function smallSums(
  deltas: Float64Array<ArrayBuffer>,
  factor: number,
): Float64Array<ArrayBuffer> | null {
  let sum = 0;
  for (let i = 0; i < deltas.length; i++) {
    sum += deltas[i];
    const value = sum * factor;
    if (sum > SAFE || sum < -SAFE || value > SAFE || value < -SAFE) return null;
    deltas[i] = value;
  }
  return deltas;
}

/** The same with 64-bit wrapping. */
export function bigSums(deltas: BigInt64Array<ArrayBuffer>, factor: bigint): BigInt64Array<ArrayBuffer> {
  let sum = 0n;
  for (let i = 0; i < deltas.length; i++) {
    sum = BigInt.asIntN(64, sum + deltas[i]);
    // Storing into a BigInt64Array wraps.
    deltas[i] = sum * factor;
  }
  return deltas;
}

/** factor × running sums of the zigzag varints in `bytes`: doubles where all are exact, else BigInt. */
export function sums(
  bytes: Uint8Array,
  count: number,
  factor: bigint,
): Float64Array<ArrayBuffer> | BigInt64Array<ArrayBuffer> {
  if (factor <= BigInt(SAFE)) {
    const deltas = smallDeltas(bytes, count);
    const small = deltas && smallSums(deltas, Number(factor));
    if (small) return small;
  }
  return bigSums(bigDeltas(bytes, count), factor);
}

/** A time column as it stands in a batch. */
export interface TimesField {
  first: bigint;
  unit: bigint;
  count: number;
  deltas: Uint8Array;
  deltaCount: number;
  runs: Float64Array<ArrayBuffer> | null;
}

/**
 * The times in microseconds since the Unix epoch; beyond ±2^53 (the year 2255) the nearest double.
 * The caller has checked `count` against a column's values, so that a run cannot ask for more memory than that.
 */
export function expandTimes(field: TimesField, index: number): Float64Array<ArrayBuffer> {
  const { count, deltaCount, runs } = field;
  const where = `times[${index}]`;
  if (count === 0) {
    if (deltaCount > 0) throw new DecodeError(`${where}: no reading but ${deltaCount} differences`, 0);
    return new Float64Array(0);
  }
  let covered = deltaCount;
  if (runs) {
    if (runs.length !== deltaCount) {
      throw new DecodeError(`${where}: ${deltaCount} differences and ${runs.length} runs`, 0);
    }
    covered = 0;
    for (const run of runs) covered += run;
  }
  if (covered !== count - 1) {
    throw new DecodeError(`${where}: ${count} readings but ${covered} differences`, 0);
  }
  return smallTimes(field) ?? bigTimes(field);
}

function smallTimes({
  first,
  unit,
  count,
  deltas,
  deltaCount,
  runs,
}: TimesField): Float64Array<ArrayBuffer> | null {
  let now = Number(first);
  const factor = Number(unit);
  if (Math.abs(now) > SAFE || factor > SAFE) return null;
  const small = smallDeltas(deltas, deltaCount);
  if (!small) return null;
  const out = new Float64Array(count);
  const place = (i: number) => {
    const time = now * factor;
    out[i] = time;
    return time <= SAFE && time >= -SAFE && now <= SAFE && now >= -SAFE;
  };
  if (!place(0)) return null;
  let i = 1;
  for (let d = 0; d < deltaCount; d++) {
    const delta = small[d];
    for (let left = runs ? runs[d] : 1; left > 0; left--) {
      now += delta;
      if (!place(i++)) return null;
    }
  }
  return out;
}

function bigTimes({ first, unit, count, deltas, deltaCount, runs }: TimesField): Float64Array<ArrayBuffer> {
  const big = bigDeltas(deltas, deltaCount);
  const out = new Float64Array(count);
  let now = first;
  out[0] = Number(BigInt.asIntN(64, now * unit));
  let i = 1;
  for (let d = 0; d < deltaCount; d++) {
    for (let left = runs ? runs[d] : 1; left > 0; left--) {
      now = BigInt.asIntN(64, now + big[d]);
      out[i++] = Number(BigInt.asIntN(64, now * unit));
    }
  }
  return out;
}
