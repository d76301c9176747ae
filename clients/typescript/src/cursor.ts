/** partition → next offset to read: where a subscription stands in the log, on any gateway. */

import { INT, many, message, UINT } from "./message.js";
import type { Reader } from "./reader.js";
import { Writer } from "./writer.js";

/** Plain data, so that it can be stored as JSON: partition → next offset. */
export type Cursor = Record<number, number>;

const readPosition = message(() => ({ partition: 0, offset: 0 }), {
  1: ["partition", UINT],
  2: ["offset", INT],
});

const readPositions = message(() => ({ positions: [] as ReturnType<typeof readPosition>[] }), {
  1: ["positions", many(readPosition)],
});

/** Reads a `headwater.v1.Cursor`. */
export function readCursor(reader: Reader): Cursor {
  const cursor: Cursor = {};
  for (const { partition, offset } of readPositions(reader).positions) cursor[partition] = offset;
  return cursor;
}

/** Writes one. */
export function positions(cursor: Cursor): Writer {
  const out = new Writer();
  for (const [partition, offset] of Object.entries(cursor)) {
    out.message(1, new Writer().int(1, Number(partition)).int(2, offset));
  }
  return out;
}

/** Moves `cursor` forward to `to`, never back. */
export function advance(cursor: Cursor, to: Cursor): void {
  for (const [partition, offset] of Object.entries(to)) {
    const p = Number(partition);
    if (!(cursor[p] >= offset)) cursor[p] = offset;
  }
}
