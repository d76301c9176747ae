/**
 * `headwater.v1.Batch` → typed columns. Written by hand, since this is where a dashboard's time goes: generated
 * code would make an object a column and a bigint a reading. batch.proto is the contract.
 */

import { expandTimes, sums, type TimesField } from "./deltas.js";
import {
  BYTES,
  countVarints,
  DecodeError,
  doubles,
  FIXED64,
  Packed,
  Reader,
  uints,
  uints32,
  VARINT,
} from "./reader.js";

/** One device's readings, column by column, or the record of their loss. */
export interface Batch {
  device: string;
  /** The random id of the agent's stream; with `device` and `seq` it names the batch for ever. */
  stream: bigint;
  /** 1, 2, 3, … without holes within a stream. */
  seq: bigint;
  columns: Column[];
  /** Set where batches were given up; `columns` is empty then. */
  loss?: Loss;
  /** How far the agent trusted its clock. */
  clock: "synchronised" | "uncertain";
}

/** The readings of one metric, all of one type. */
export type Column =
  | ({ type: "f64"; values: Float64Array<ArrayBuffer> } & ColumnName)
  | ({
      type: "i64";
      /** Doubles if every value is within ±(2^53 - 1), else BigInt. */
      values: Float64Array<ArrayBuffer> | BigInt64Array<ArrayBuffer>;
    } & ColumnName)
  | ({ type: "bool" /** 0 or 1. */; values: Uint8Array<ArrayBuffer> } & ColumnName)
  | ({ type: "string"; values: string[] } & ColumnName);

interface ColumnName {
  metric: string;
  /** As in UCUM (`Cel`, `%`, `V`), or empty. */
  unit: string;
  /**
   * When each value was sampled, microseconds since the Unix epoch (exact until the year 2255). In the order sampled:
   * times may repeat and go back. Columns sampled together share one array: do not write into it.
   */
  times: Float64Array<ArrayBuffer>;
  /** Indices of readings outside the metric's configured plausible range, ascending. */
  suspect: Uint32Array;
}

/** Stands where an agent had to give batches up. */
export interface Loss {
  /** The last sequence number it covers; the first is the batch's `seq`. */
  through: bigint;
  readings: number;
  reason: "unspecified" | "journal full" | "corrupt" | "retention" | "refused";
}

const REASONS = ["unspecified", "journal full", "corrupt", "retention", "refused"] as const;

/** Exact in doubles up to 10^22. */
const POWERS = [
  1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19,
  1e20, 1e21, 1e22,
];

/** Reads a batch; `DecodeError` says what is wrong with it and where. */
export function decodeBatch(bytes: Uint8Array): Batch {
  return readBatch(new Reader(bytes));
}

/** Reads a batch that fills `reader`. */
export function readBatch(reader: Reader): Batch {
  const batch: Batch = { device: "", stream: 0n, seq: 0n, columns: [], clock: "synchronised" };
  const times: TimesField[] = [];
  const columns: Reader[] = [];
  while (reader.more()) {
    const tag = reader.tag();
    switch (tag) {
      case (1 << 3) | BYTES:
        batch.device = reader.string();
        break;
      case (2 << 3) | FIXED64:
        batch.stream = reader.fixed64();
        break;
      case (3 << 3) | VARINT:
        batch.seq = reader.uint64();
        break;
      case (4 << 3) | BYTES:
        times.push(readTimes(reader.message()));
        break;
      case (5 << 3) | BYTES:
        // A column may stand before the times it points to.
        columns.push(reader.message());
        break;
      case (6 << 3) | BYTES:
        batch.loss = readLoss(reader.message());
        break;
      case (7 << 3) | VARINT:
        batch.clock = reader.uint() === 0 ? "synchronised" : "uncertain";
        break;
      default:
        reader.skip(tag);
    }
  }
  const expanded: (Float64Array<ArrayBuffer> | undefined)[] = new Array(times.length);
  for (let i = 0; i < columns.length; i++) {
    batch.columns.push(readColumn(columns[i], i, times, expanded));
  }
  return batch;
}

function readTimes(reader: Reader): TimesField {
  const field: TimesField = {
    first: 0n,
    unit: 1n,
    count: 0,
    deltas: reader.bytes,
    deltaCount: 0,
    runs: null,
  };
  const deltas = new Packed();
  const runs = new Packed();
  while (reader.more()) {
    const tag = reader.tag();
    switch (tag >>> 3) {
      case 1:
        field.first = reader.sint64();
        break;
      case 2:
        field.unit = reader.uint64() || 1n;
        break;
      case 3:
        field.count = reader.uint();
        break;
      case 4:
        deltas.take(reader, tag, VARINT);
        break;
      case 5:
        runs.take(reader, tag, VARINT);
        break;
      default:
        reader.skip(tag);
    }
  }
  field.deltas = deltas.bytes();
  field.deltaCount = countVarints(field.deltas);
  const runBytes = runs.bytes();
  if (runBytes.length > 0) field.runs = uints(runBytes);
  return field;
}

function readLoss(reader: Reader): Loss {
  const loss: Loss = { through: 0n, readings: 0, reason: "unspecified" };
  while (reader.more()) {
    const tag = reader.tag();
    switch (tag) {
      case (1 << 3) | VARINT:
        loss.through = reader.uint64();
        break;
      case (2 << 3) | VARINT:
        loss.readings = reader.uint();
        break;
      case (3 << 3) | VARINT:
        loss.reason = REASONS[reader.uint()] ?? "unspecified";
        break;
      default:
        reader.skip(tag);
    }
  }
  return loss;
}

type Typed =
  | { type: "f64"; values: Float64Array<ArrayBuffer> }
  | { type: "i64"; values: Float64Array<ArrayBuffer> | BigInt64Array<ArrayBuffer> }
  | { type: "bool"; values: Uint8Array<ArrayBuffer> }
  | { type: "string"; values: string[] };

function readColumn(
  reader: Reader,
  index: number,
  times: TimesField[],
  expanded: (Float64Array<ArrayBuffer> | undefined)[],
): Column {
  let metric = "";
  let unit = "";
  let at = 0;
  let typed: Typed | undefined;
  const suspect = new Packed();
  const start = reader.pos;
  while (reader.more()) {
    const tag = reader.tag();
    switch (tag) {
      case (1 << 3) | BYTES:
        metric = reader.string();
        break;
      case (2 << 3) | BYTES:
        unit = reader.string();
        break;
      case (3 << 3) | VARINT:
        at = reader.uint();
        break;
      case (4 << 3) | BYTES:
        typed = { type: "f64", values: readScaled(reader.message()) };
        break;
      case (5 << 3) | BYTES:
        typed = { type: "f64", values: readDoubles(reader.message()) };
        break;
      case (6 << 3) | BYTES:
        typed = { type: "i64", values: readInts(reader.message()) };
        break;
      case (7 << 3) | BYTES:
        typed = { type: "bool", values: readBools(reader.message()) };
        break;
      case (8 << 3) | BYTES:
        typed = { type: "string", values: readStrings(reader.message()) };
        break;
      case (9 << 3) | BYTES:
      case (9 << 3) | VARINT:
        suspect.take(reader, tag, VARINT);
        break;
      default:
        reader.skip(tag);
    }
  }
  const name = () => `column ${index} (${metric || "unnamed"})`;
  if (!typed) throw new DecodeError(`${name()} without values of a known form`, start);
  const field = times[at];
  if (!field) throw new DecodeError(`${name()} points to times[${at}]; there are ${times.length}`, start);
  if (field.count !== typed.values.length) {
    throw new DecodeError(`${name()} has ${typed.values.length} values for ${field.count} times`, start);
  }
  let shared = expanded[at];
  if (!shared) {
    shared = expandTimes(field, at);
    expanded[at] = shared;
  }
  const marks = uints32(suspect.bytes());
  for (const mark of marks) {
    if (mark >= typed.values.length)
      throw new DecodeError(`${name()} marks reading ${mark} as suspect`, start);
  }
  return { metric, unit, times: shared, suspect: marks, ...typed };
}

function readScaled(reader: Reader): Float64Array<ArrayBuffer> {
  let scale = 0;
  let factor = 1n;
  const deltas = new Packed();
  const places = new Packed();
  const exceptions = new Packed();
  const start = reader.pos;
  while (reader.more()) {
    const tag = reader.tag();
    switch (tag >>> 3) {
      case 1:
        scale = reader.uint();
        break;
      case 2:
        factor = reader.uint64() || 1n;
        break;
      case 3:
        deltas.take(reader, tag, VARINT);
        break;
      case 4:
        places.take(reader, tag, VARINT);
        break;
      case 5:
        exceptions.take(reader, tag, FIXED64);
        break;
      default:
        reader.skip(tag);
    }
  }
  if (scale >= POWERS.length) throw new DecodeError(`a scale of ${scale}; at most 22 is exact`, start);
  const power = POWERS[scale];
  const packed = deltas.bytes();
  const mantissas = sums(packed, countVarints(packed), factor);
  let values: Float64Array<ArrayBuffer>;
  if (mantissas instanceof Float64Array) {
    values = mantissas;
    if (power !== 1) for (let i = 0; i < values.length; i++) values[i] /= power;
  } else {
    values = new Float64Array(mantissas.length);
    for (let i = 0; i < values.length; i++) values[i] = Number(mantissas[i]) / power;
  }
  const indices = uints(places.bytes());
  const others = doubles(exceptions.bytes(), start);
  if (indices.length !== others.length) {
    throw new DecodeError(`${indices.length} places for ${others.length} exceptions`, start);
  }
  // By their bytes: assigning a double may change a NaN's payload.
  const to = new BigUint64Array(values.buffer);
  const from = new BigUint64Array(others.buffer);
  for (let i = 0; i < indices.length; i++) {
    if (indices[i] >= values.length) {
      throw new DecodeError(`an exception at reading ${indices[i]} of ${values.length}`, start);
    }
    to[indices[i]] = from[i];
  }
  return values;
}

function readDoubles(reader: Reader): Float64Array<ArrayBuffer> {
  const values = new Packed();
  const start = reader.pos;
  while (reader.more()) {
    const tag = reader.tag();
    if (tag >>> 3 === 1) values.take(reader, tag, FIXED64);
    else reader.skip(tag);
  }
  return doubles(values.bytes(), start);
}

function readInts(reader: Reader): Float64Array<ArrayBuffer> | BigInt64Array<ArrayBuffer> {
  let factor = 1n;
  const deltas = new Packed();
  while (reader.more()) {
    const tag = reader.tag();
    if (tag === ((1 << 3) | VARINT)) factor = reader.uint64() || 1n;
    else if (tag >>> 3 === 2) deltas.take(reader, tag, VARINT);
    else reader.skip(tag);
  }
  const packed = deltas.bytes();
  return sums(packed, countVarints(packed), factor);
}

function readBools(reader: Reader): Uint8Array<ArrayBuffer> {
  const values = new Packed();
  while (reader.more()) {
    const tag = reader.tag();
    if (tag >>> 3 === 1) values.take(reader, tag, VARINT);
    else reader.skip(tag);
  }
  const packed = new Reader(values.bytes());
  const out = new Uint8Array(countVarints(packed.bytes));
  for (let i = 0; i < out.length; i++) out[i] = packed.uint() === 0 ? 0 : 1;
  return out;
}

function readStrings(reader: Reader): string[] {
  const dictionary: string[] = [];
  const indices = new Packed();
  const start = reader.pos;
  while (reader.more()) {
    const tag = reader.tag();
    if (tag === ((1 << 3) | BYTES)) dictionary.push(reader.string());
    else if (tag >>> 3 === 2) indices.take(reader, tag, VARINT);
    else reader.skip(tag);
  }
  return Array.from(uints(indices.bytes()), (index) => {
    if (index >= dictionary.length) {
      throw new DecodeError(`string ${index} of a dictionary of ${dictionary.length}`, start);
    }
    return dictionary[index];
  });
}
