/** `headwater.v1.ServerFrame` → what the client acts on. live.proto is the contract. */

import { type Batch, readBatch } from "./batch.js";
import {
  type CaughtUp,
  type Coming,
  type Goodbye,
  type Pong,
  type ReplyFrame,
  readCaughtUp,
  readComing,
  readError,
  readGoodbye,
  readPong,
  readReply,
  readSubscribed,
  readTokenAccepted,
  readWelcome,
  type ServerError,
  type Subscribed,
  type TokenAccepted,
  type Welcome,
} from "./control.js";
import { INT, message, UINT, words } from "./message.js";
import { type PresenceFrame, readPresence } from "./presence.js";
import { BYTES, FIXED32, Reader, VARINT } from "./reader.js";
import { readSeries, type SeriesFrame } from "./series.js";

/** One record of the telemetry topic, its batch not decoded yet. */
export interface DataFrame {
  case: "data";
  filter: number;
  partition: number;
  offset: number;
  /** When the bridge took it in, microseconds since the Unix epoch. */
  arrivalUs: number;
  batch: Uint8Array;
}

/** The newest values of several devices. */
export interface LatestFrame {
  case: "latest";
  id: number;
  batches: Batch[];
  merged: number;
  snapshot: boolean;
}

/** What cannot be delivered any more. */
export interface GapFrame {
  case: "gap";
  id: number;
  partition: number;
  fromOffset: number;
  /** Exclusive. */
  toOffset: number;
  reason: "unspecified" | "retention" | "unreadable" | "reset";
}

const readGap = message<GapFrame>(
  () => ({ case: "gap", id: 0, partition: 0, fromOffset: 0, toOffset: 0, reason: "unspecified" }),
  {
    1: ["id", UINT],
    2: ["partition", UINT],
    3: ["fromOffset", INT],
    4: ["toOffset", INT],
    5: ["reason", words<GapFrame["reason"]>(["unspecified", "retention", "unreadable", "reset"])],
  },
);

/** Frames that the window counts. */
export type Counted = DataFrame | LatestFrame | SeriesFrame | PresenceFrame | GapFrame;

export type Control =
  | Welcome
  | Subscribed
  | CaughtUp
  | ServerError
  | ReplyFrame
  | Goodbye
  | Pong
  | TokenAccepted
  | Coming;

export type Frame = Counted | Control;

/** What a frame is told by: its field in ServerFrame's `oneof`. */
const KINDS: Record<number, (reader: Reader) => Frame> = {
  1: readWelcome,
  2: readSubscribed,
  3: readCaughtUp,
  4: readError,
  5: readReply,
  6: readGoodbye,
  7: readPong,
  8: readTokenAccepted,
  9: readComing,
  16: readData,
  17: readLatest,
  18: readSeries,
  19: readPresence,
  20: readGap,
};

/** Reads one WebSocket message. Null: a frame of a kind that this client does not know, to be ignored. */
export function readFrame(bytes: Uint8Array): Frame | null {
  const reader = new Reader(bytes);
  while (reader.more()) {
    const tag = reader.tag();
    const read = (tag & 7) === BYTES ? KINDS[tag >>> 3] : undefined;
    if (read) return read(reader.message());
    reader.skip(tag);
  }
  return null;
}

function readData(reader: Reader): DataFrame {
  const frame: DataFrame = {
    case: "data",
    filter: 0,
    partition: 0,
    offset: 0,
    arrivalUs: 0,
    batch: new Uint8Array(),
  };
  while (reader.more()) {
    const tag = reader.tag();
    switch (tag) {
      case (1 << 3) | FIXED32:
        frame.filter = reader.fixed32();
        break;
      case (2 << 3) | VARINT:
        frame.partition = reader.uint();
        break;
      case (3 << 3) | VARINT:
        frame.offset = reader.int();
        break;
      case (4 << 3) | VARINT:
        frame.arrivalUs = reader.int();
        break;
      case (5 << 3) | BYTES:
        frame.batch = reader.slice();
        break;
      default:
        reader.skip(tag);
    }
  }
  return frame;
}

function readLatest(reader: Reader): LatestFrame {
  const frame: LatestFrame = { case: "latest", id: 0, batches: [], merged: 0, snapshot: false };
  while (reader.more()) {
    const tag = reader.tag();
    switch (tag) {
      case (1 << 3) | VARINT:
        frame.id = reader.uint();
        break;
      case (2 << 3) | BYTES:
        frame.batches.push(readBatch(reader.message()));
        break;
      case (3 << 3) | VARINT:
        frame.merged = reader.uint();
        break;
      case (4 << 3) | VARINT:
        frame.snapshot = reader.uint() !== 0;
        break;
      default:
        reader.skip(tag);
    }
  }
  return frame;
}
