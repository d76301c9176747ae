/** `headwater.v1.SeriesFrame` → typed columns, one entry a bucket. live.proto is the contract. */

import { type Cursor, readCursor } from "./cursor.js";
import { INT, many, message, one, TEXT, UINT } from "./message.js";
import {
  BYTES,
  DecodeError,
  doubles,
  FIXED64,
  Packed,
  type Reader,
  uints,
  uints32,
  VARINT,
} from "./reader.js";

/**
 * Buckets of one metric of one device, in one unit. Entry i of each array is of the bucket [starts[i], starts[i] + widthUs).
 *
 * A bucket that was told before is told what came since: join the two (min of both, max of both, counts added, the last
 * with the later time). A wider one holds only what none of the narrower ones within it held: it stands beside them.
 */
export interface SeriesColumn {
  device: string;
  metric: string;
  /** As in UCUM (`Cel`, `%`, `V`), or empty. */
  unit: string;
  /** How long each bucket is, microseconds: what was asked for, or, where the window was closed meanwhile, that doubled as often as it had to be. */
  widthUs: number;
  /** When each begins, microseconds since the Unix epoch, ascending. */
  starts: Float64Array<ArrayBuffer>;
  min: Float64Array<ArrayBuffer>;
  max: Float64Array<ArrayBuffer>;
  /** The reading with the greatest time. */
  last: Float64Array<ArrayBuffer>;
  /** When that was, microseconds since the Unix epoch. */
  lastTimes: Float64Array<ArrayBuffer>;
  /** Readings. */
  counts: Uint32Array<ArrayBuffer>;
}

/** What a device had to give up, as its loss records say. */
export interface SeriesLoss {
  device: string;
  /** When the first and the last loss record arrived, microseconds since the Unix epoch. */
  firstArrivalUs: number;
  lastArrivalUs: number;
  readings: number;
}

const readLoss = message<SeriesLoss>(
  () => ({ device: "", firstArrivalUs: 0, lastArrivalUs: 0, readings: 0 }),
  { 1: ["device", TEXT], 2: ["firstArrivalUs", INT], 3: ["lastArrivalUs", INT], 4: ["readings", UINT] },
);

export interface SeriesFrame {
  case: "series";
  id: number;
  columns: SeriesColumn[];
  /** How many batches went into it. */
  merged: number;
  /** Where the subscription stands after it; only the partitions that moved. */
  cursor: Cursor;
  losses: SeriesLoss[];
}

export const readSeries = message<SeriesFrame>(
  () => ({ case: "series", id: 0, columns: [], merged: 0, cursor: {}, losses: [] }),
  {
    1: ["id", UINT],
    2: ["columns", many(readColumn)],
    3: ["merged", UINT],
    4: ["cursor", one(readCursor)],
    5: ["losses", many(readLoss)],
  },
);

function readColumn(reader: Reader): SeriesColumn {
  let device = "";
  let metric = "";
  let unit = "";
  let startUs = 0;
  let widthUs = 0;
  const [bucket, min, max, last, count, lastUs] = Array.from({ length: 6 }, () => new Packed());
  const lists: Record<number, [Packed, number]> = {
    6: [bucket, VARINT],
    7: [min, FIXED64],
    8: [max, FIXED64],
    9: [last, FIXED64],
    10: [count, VARINT],
    11: [lastUs, VARINT],
  };
  const at = reader.pos;
  while (reader.more()) {
    const tag = reader.tag();
    switch (tag) {
      case (1 << 3) | BYTES:
        device = reader.string();
        break;
      case (2 << 3) | BYTES:
        metric = reader.string();
        break;
      case (3 << 3) | BYTES:
        unit = reader.string();
        break;
      case (4 << 3) | VARINT:
        startUs = reader.int();
        break;
      case (5 << 3) | VARINT:
        widthUs = reader.int();
        break;
      default: {
        const list = lists[tag >>> 3];
        if (list) list[0].take(reader, tag, list[1]);
        else reader.skip(tag);
      }
    }
  }
  const starts = uints(bucket.bytes());
  for (let i = 0; i < starts.length; i++) starts[i] = startUs + starts[i] * widthUs;
  const lastTimes = uints(lastUs.bytes());
  for (let i = 0; i < lastTimes.length; i++) lastTimes[i] += starts[i];
  const column: SeriesColumn = {
    device,
    metric,
    unit,
    widthUs,
    starts,
    min: doubles(min.bytes(), at),
    max: doubles(max.bytes(), at),
    last: doubles(last.bytes(), at),
    lastTimes,
    counts: uints32(count.bytes()),
  };
  for (const name of ["min", "max", "last", "lastTimes", "counts"] as const) {
    const { length } = column[name];
    if (length !== starts.length) {
      throw new DecodeError(
        `series ${metric || "unnamed"} has ${length} ${name} for ${starts.length} buckets`,
        at,
      );
    }
  }
  return column;
}
