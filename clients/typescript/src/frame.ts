/** `headwater.v1.ServerFrame` → what the client acts on. Data and Latest by hand, the rare others by generated code. */

import { fromBinary } from "@bufbuild/protobuf";
import { type Batch, readBatch } from "./batch.js";
import { type ServerFrame, ServerFrameSchema } from "./gen/headwater/v1/live_pb.js";
import { BYTES, DecodeError, FIXED32, Reader, VARINT } from "./reader.js";

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

export type Frame =
  | DataFrame
  | LatestFrame
  | Exclude<ServerFrame["frame"], { case: "data" | "latest" | undefined }>;

const DATA = (16 << 3) | BYTES;
const LATEST = (17 << 3) | BYTES;

/** Reads one WebSocket message. Null: a frame of a kind that this client does not know, to be ignored. */
export function readFrame(bytes: Uint8Array): Frame | null {
  const reader = new Reader(bytes);
  if (!reader.more()) return null;
  const tag = reader.tag();
  if (tag === DATA) return readData(reader.message());
  if (tag === LATEST) return readLatest(reader.message());
  try {
    const { frame } = fromBinary(ServerFrameSchema, bytes);
    return frame.case === undefined || frame.case === "data" || frame.case === "latest" ? null : frame;
  } catch (error) {
    throw new DecodeError(
      `a frame of kind ${tag >>> 3}: ${error instanceof Error ? error.message : error}`,
      0,
    );
  }
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
