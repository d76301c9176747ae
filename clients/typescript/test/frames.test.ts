/** What the generated code writes, the client reads; what the client writes, the generated code reads. */

import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { readFrame } from "../src/frame.js";
import { DecodeError } from "../src/reader.js";
import * as request from "../src/request.js";
import { ReplyStatus } from "./gen/headwater/v1/command_pb.js";
import {
  ClientFrameSchema,
  ErrorCode,
  GapReason,
  Mode,
  ServerFrameSchema,
} from "./gen/headwater/v1/live_pb.js";

type Outgoing = NonNullable<MessageInitShape<typeof ServerFrameSchema>["frame"]>;

const encode = (frame: Outgoing) => toBinary(ServerFrameSchema, create(ServerFrameSchema, { frame }));
const read = (frame: Outgoing) => readFrame(encode(frame));

const uint32 = fc.oneof(fc.nat(200), fc.integer({ min: 0, max: 0xffffffff }));
/** What doubles hold exactly. */
const uint53 = fc.oneof(fc.nat(200), fc.maxSafeNat());
const int53 = fc.oneof(fc.integer({ min: -200, max: 200 }), fc.maxSafeInteger());
const text = fc.oneof(fc.string({ maxLength: 60 }), fc.string({ unit: "binary", maxLength: 60 }));
const cursor = fc.dictionary(fc.nat(255).map(String), int53, { maxKeys: 5 });
const double = fc.oneof(fc.double(), fc.constantFrom(-0, Number.NaN, Infinity, 5e-324));

const positions = (cursor: Record<string, number>) => ({
  positions: Object.entries(cursor).map(([partition, offset]) => ({
    partition: Number(partition),
    offset: BigInt(offset),
  })),
});
/** An enumeration's name in words: UNKNOWN_DEVICE → unknown device. */
const words = (name: string) => name.toLowerCase().replaceAll("_", " ");
const members = (all: object) =>
  fc.constantFrom(...Object.values(all).filter((value): value is number => typeof value === "number"));

function holds<T>(arbitrary: fc.Arbitrary<T>, check: (value: T) => void): void {
  fc.assert(fc.property(arbitrary, check), { numRuns: 200 });
}

describe("the client reads", () => {
  it("Welcome", () => {
    const window = fc.option(fc.record({ frames: uint32, bytes: uint53 }));
    holds(
      fc.record({
        server: text,
        window,
        partitions: uint32,
        timeUs: int53,
        tokenExpiresUs: int53,
        subject: text,
        mayCommand: fc.boolean(),
      }),
      (is) => {
        const { timeUs, tokenExpiresUs, window, ...others } = is;
        const value = {
          ...others,
          ...(window ? { window: { ...window, bytes: BigInt(window.bytes) } } : {}),
          timeUs: BigInt(timeUs),
          tokenExpiresUs: BigInt(tokenExpiresUs),
        };
        expect(read({ case: "welcome", value })).toEqual({ case: "welcome", ...is });
      },
    );
  });

  it("Subscribed and CaughtUp", () => {
    holds(fc.record({ id: uint32, filter: uint32, cursor }), ({ id, filter, cursor }) => {
      expect(read({ case: "subscribed", value: { id, filter, cursor: positions(cursor) } })).toEqual({
        case: "subscribed",
        id,
        filter,
        cursor,
      });
      expect(read({ case: "caughtUp", value: { id, cursor: positions(cursor) } })).toEqual({
        case: "caughtUp",
        id,
        cursor,
      });
    });
  });

  it("ServerError, and codes to come as unspecified", () => {
    const code = fc.oneof(members(ErrorCode), fc.constant(99));
    holds(fc.record({ id: uint32, code, message: text, command: text }), (value) => {
      expect(read({ case: "error", value })).toEqual({
        case: "error",
        ...value,
        code: words(ErrorCode[value.code] ?? "UNSPECIFIED"),
      });
    });
  });

  it("Reply", () => {
    const is = fc.record({
      id: text,
      device: text,
      status: members(ReplyStatus),
      output: text,
      repliedUs: int53,
    });
    holds(is, (is) => {
      const value = { ...is, repliedUs: BigInt(is.repliedUs) };
      expect(read({ case: "reply", value })).toEqual({
        case: "reply",
        ...is,
        status: words(ReplyStatus[is.status]),
      });
    });
  });

  it("Goodbye, Pong, TokenAccepted and Coming", () => {
    holds(uint53, (bytes) => {
      expect(read({ case: "coming", value: { bytes: BigInt(bytes) } })).toEqual({ case: "coming", bytes });
    });
    const cursors = fc.array(fc.record({ id: uint32, cursor }), { maxLength: 3 });
    holds(fc.record({ reason: text, retryAfterMs: uint32, cursors }), (is) => {
      const value = {
        ...is,
        cursors: is.cursors.map(({ id, cursor }) => ({ id, cursor: positions(cursor) })),
      };
      expect(read({ case: "goodbye", value })).toEqual({ case: "goodbye", ...is });
    });
    holds(fc.record({ nonce: uint53, timeUs: int53, wireBytes: uint53 }), (is) => {
      const value = {
        nonce: BigInt(is.nonce),
        timeUs: BigInt(is.timeUs),
        wireBytes: BigInt(is.wireBytes),
      };
      expect(read({ case: "pong", value })).toEqual({ case: "pong", ...is });
    });
    holds(int53, (tokenExpiresUs) => {
      const value = { tokenExpiresUs: BigInt(tokenExpiresUs) };
      expect(read({ case: "tokenAccepted", value })).toEqual({ case: "tokenAccepted", tokenExpiresUs });
    });
  });

  it("Data, its batch as it stands", () => {
    const is = fc.record({
      filter: uint32,
      partition: uint32,
      offset: int53,
      arrivalUs: int53,
      batch: fc.uint8Array({ maxLength: 300 }),
    });
    holds(is, (is) => {
      const value = { ...is, offset: BigInt(is.offset), arrivalUs: BigInt(is.arrivalUs) };
      const frame = read({ case: "data", value });
      expect(frame).toMatchObject({ case: "data", ...is, batch: expect.anything() });
      expect(frame?.case === "data" && [...frame.batch]).toEqual([...is.batch]);
    });
  });

  it("Latest", () => {
    const batches = fc.array(fc.record({ device: text, seq: uint53 }), { maxLength: 4 });
    holds(fc.record({ id: uint32, merged: uint32, snapshot: fc.boolean(), batches }), (is) => {
      const value = { ...is, batches: is.batches.map(({ device, seq }) => ({ device, seq: BigInt(seq) })) };
      expect(read({ case: "latest", value })).toMatchObject({
        case: "latest",
        ...is,
        batches: value.batches,
      });
    });
  });

  it("SeriesFrame, numbers bit for bit", () => {
    const bucket = fc.record({
      at: fc.nat(1_000_000),
      min: double,
      max: double,
      last: double,
      count: uint32,
      lastUs: fc.nat(1_000_000),
    });
    const column = fc.record({
      device: text,
      metric: text,
      unit: text,
      startUs: fc.integer({ min: -1e9, max: 1e9 }),
      bucketUs: fc.integer({ min: 1, max: 1e9 }),
      buckets: fc.array(bucket, { maxLength: 20 }),
    });
    const loss = fc.record({ device: text, firstArrivalUs: int53, lastArrivalUs: int53, readings: uint53 });
    const frame = fc.record({
      id: uint32,
      merged: uint32,
      columns: fc.array(column, { maxLength: 3 }),
      cursor,
      losses: fc.array(loss, { maxLength: 3 }),
    });
    holds(frame, ({ id, merged, columns, cursor, losses }) => {
      const value = {
        id,
        merged,
        columns: columns.map(({ buckets, startUs, bucketUs, ...names }) => ({
          ...names,
          startUs: BigInt(startUs),
          bucketUs: BigInt(bucketUs),
          bucket: buckets.map(({ at }) => at),
          min: buckets.map(({ min }) => min),
          max: buckets.map(({ max }) => max),
          last: buckets.map(({ last }) => last),
          count: buckets.map(({ count }) => count),
          lastUs: buckets.map(({ lastUs }) => BigInt(lastUs)),
        })),
        cursor: positions(cursor),
        losses: losses.map(({ device, firstArrivalUs, lastArrivalUs, readings }) => ({
          device,
          firstArrivalUs: BigInt(firstArrivalUs),
          lastArrivalUs: BigInt(lastArrivalUs),
          readings: BigInt(readings),
        })),
      };
      expect(read({ case: "series", value })).toEqual({
        case: "series",
        id,
        merged,
        cursor,
        losses,
        columns: columns.map(({ buckets, startUs, bucketUs, ...names }) => {
          const starts = Float64Array.from(buckets, ({ at }) => startUs + at * bucketUs);
          return {
            ...names,
            widthUs: bucketUs,
            starts,
            min: Float64Array.from(buckets, ({ min }) => min),
            max: Float64Array.from(buckets, ({ max }) => max),
            last: Float64Array.from(buckets, ({ last }) => last),
            lastTimes: Float64Array.from(buckets, ({ lastUs }, i) => starts[i] + lastUs),
            counts: Uint32Array.from(buckets, ({ count }) => count),
          };
        }),
      });
    });
  });

  it("SeriesFrame not, where its lists do not fit each other", () => {
    const column = {
      metric: "m",
      bucket: [0, 1],
      min: [1, 2],
      max: [1, 2],
      last: [1, 2],
      count: [1],
      lastUs: [0n, 0n],
    };
    expect(() => read({ case: "series", value: { columns: [column] } })).toThrow(
      "series m has 1 counts for 2 buckets",
    );
  });

  it("Presence", () => {
    const agent = fc.record({
      version: text,
      target: text,
      bootId: text,
      configHash: text,
      hostname: text,
      process: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    });
    const waiting = fc.record({ batches: uint53, readings: uint53, bytes: uint53, oldestUs: int53 });
    const device = fc.record({
      device: text,
      online: fc.boolean(),
      sinceUs: int53,
      lastSeenUs: int53,
      agent: fc.option(agent, { nil: undefined }),
      waiting: fc.option(waiting, { nil: undefined }),
      lostReadings: uint53,
      readingsPerS: double,
      batchesPerS: double,
      lagUs: int53,
      removed: fc.boolean(),
    });
    const frame = fc.record({
      id: uint32,
      devices: fc.array(device, { maxLength: 4 }),
      snapshot: fc.boolean(),
      complete: fc.boolean(),
    });
    holds(frame, ({ id, devices, snapshot, complete }) => {
      const value = {
        id,
        snapshot,
        snapshotComplete: complete,
        devices: devices.map(({ agent, waiting, ...others }) => ({
          ...others,
          sinceUs: BigInt(others.sinceUs),
          lastSeenUs: BigInt(others.lastSeenUs),
          lostReadings: BigInt(others.lostReadings),
          lagUs: BigInt(others.lagUs),
          ...(agent && { agent }),
          ...(waiting && {
            waiting: {
              batches: BigInt(waiting.batches),
              readings: BigInt(waiting.readings),
              bytes: BigInt(waiting.bytes),
              oldestUs: BigInt(waiting.oldestUs),
            },
          }),
        })),
      };
      expect(read({ case: "presence", value })).toEqual({
        case: "presence",
        id,
        devices,
        snapshot,
        complete,
      });
    });
  });

  it("Gap", () => {
    const reason = fc.oneof(members(GapReason), fc.constant(77));
    holds(fc.record({ id: uint32, partition: uint32, fromOffset: int53, toOffset: int53, reason }), (is) => {
      const value = { ...is, fromOffset: BigInt(is.fromOffset), toOffset: BigInt(is.toOffset) };
      expect(read({ case: "gap", value })).toEqual({
        case: "gap",
        ...is,
        reason: words(GapReason[is.reason] ?? "UNSPECIFIED"),
      });
    });
  });

  it("every kind of frame that live.proto has", () => {
    const oneof = ServerFrameSchema.oneofs[0].fields;
    expect(oneof.length).toBeGreaterThanOrEqual(13);
    for (const { localName, number } of oneof) {
      const frame = read({ case: localName, value: {} } as Outgoing);
      expect(frame?.case, `frame ${number}`).toBe(localName);
    }
  });

  it("nothing of kinds to come, and the frame behind fields to come", () => {
    expect(readFrame(new Uint8Array())).toBeNull();
    expect(readFrame(Uint8Array.of(0xfa, 0x01, 2, 1, 2))).toBeNull();
    const later = Uint8Array.of(0xf8, 0x01, 7, ...encode({ case: "goodbye", value: { reason: "so" } }));
    expect(readFrame(later)).toMatchObject({ case: "goodbye", reason: "so" });
  });

  it("anything cut off or random with a DecodeError and nothing else", () => {
    const try_ = (bytes: Uint8Array) => {
      try {
        readFrame(bytes);
      } catch (error) {
        expect(error).toBeInstanceOf(DecodeError);
      }
    };
    holds(fc.uint8Array({ maxLength: 60 }), try_);
    holds(
      fc.tuple(fc.constantFrom(1, 2, 3, 4, 5, 6, 7, 8, 16, 17, 18, 19, 20), fc.uint8Array({ maxLength: 60 })),
      ([kind, bytes]) => {
        const tag = kind * 8 + 2;
        const head = tag < 128 ? [tag] : [(tag & 127) | 128, tag >> 7];
        try_(Uint8Array.of(...head, bytes.length, ...bytes));
      },
    );
  });
});

describe("the client writes", () => {
  const parse = (bytes: Uint8Array) => fromBinary(ClientFrameSchema, bytes).frame;
  const amount = fc.record({ frames: uint32, bytes: uint53 });
  const big = ({ frames, bytes }: { frames: number; bytes: number }) => ({ frames, bytes: BigInt(bytes) });

  it("Hello and Ack", () => {
    holds(fc.tuple(text, text, amount), ([client, token, window]) => {
      expect(parse(request.hello(client, token, window))).toMatchObject({
        case: "hello",
        value: { client, token, window: big(window) },
      });
    });
    holds(fc.tuple(uint53, uint53, amount), ([frames, bytes, window]) => {
      expect(parse(request.ack({ frames, bytes }, window))).toMatchObject({
        case: "ack",
        value: { framesTotal: BigInt(frames), bytesTotal: BigInt(bytes), window: big(window) },
      });
    });
  });

  it("Subscribe, with every start", () => {
    const start = fc.oneof(
      fc.constantFrom<request.Start>("now", "snapshot"),
      fc.record({ timeUs: int53 }),
      fc.record({ cursor }),
    );
    const is = fc.record({
      id: uint32,
      devices: fc.array(text, { maxLength: 3 }),
      metrics: fc.array(text, { maxLength: 3 }),
      mode: fc.constantFrom("all" as const, "latest" as const, "series" as const, "presence" as const),
      start,
      intervalMs: uint32,
    });
    holds(is, (is) => {
      const { start, mode, ...others } = is;
      let at: object;
      if (typeof start === "string") at = { case: start, value: true };
      else if ("timeUs" in start) at = { case: "timeUs", value: BigInt(start.timeUs) };
      else at = { case: "cursor", value: positions(start.cursor) };
      expect(parse(request.subscribe(is))).toMatchObject({
        case: "subscribe",
        value: { ...others, mode: Mode[mode.toUpperCase() as keyof typeof Mode], start: { at } },
      });
    });
  });

  it("Command", () => {
    const is = fc.record({
      id: text,
      device: text,
      name: text,
      arguments: fc.array(text, { maxLength: 4 }),
      expiresUs: int53,
    });
    holds(is, (is) => {
      expect(parse(request.command(is))).toMatchObject({
        case: "command",
        value: { ...is, expiresUs: BigInt(is.expiresUs) },
      });
    });
  });

  it("Unsubscribe, Token and Ping", () => {
    holds(fc.tuple(uint32, text, uint53), ([id, token, nonce]) => {
      expect(parse(request.unsubscribe(id))).toMatchObject({ case: "unsubscribe", value: { id } });
      expect(parse(request.token(token))).toMatchObject({ case: "token", value: { token } });
      expect(parse(request.ping(nonce))).toMatchObject({ case: "ping", value: { nonce: BigInt(nonce) } });
    });
  });
});
