/** partition → next offset to read: where a subscription stands in the log, on any gateway. */

import type { Cursor as CursorMessage } from "./gen/headwater/v1/live_pb.js";

/** Plain data, so that it can be stored as JSON: partition → next offset. */
export type Cursor = Record<number, number>;

export function fromMessage(message: CursorMessage | undefined): Cursor {
  const cursor: Cursor = {};
  for (const { partition, offset } of message?.positions ?? []) cursor[partition] = Number(offset);
  return cursor;
}

export function toPositions(cursor: Cursor): { partition: number; offset: bigint }[] {
  return Object.entries(cursor).map(([partition, offset]) => ({
    partition: Number(partition),
    offset: BigInt(offset),
  }));
}

/** Moves `cursor` forward to `to`, never back. */
export function advance(cursor: Cursor, to: Cursor): void {
  for (const [partition, offset] of Object.entries(to)) {
    const p = Number(partition);
    if (!(cursor[p] >= offset)) cursor[p] = offset;
  }
}
