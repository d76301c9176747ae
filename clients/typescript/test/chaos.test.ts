/** Whatever lines, windows and handlers do, each subscription gets each batch once, and in order. */

import { create, toBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { Subscription } from "../src/index.js";
import { append, dial, eachWithRelay, relay } from "./dial.js";
import { BatchSchema } from "./gen/headwater/v1/batch_pb.js";
import { until } from "./until.js";

eachWithRelay();

const action = fc.oneof(
  fc.record({
    do: fc.constant("append" as const),
    partition: fc.nat(1),
    count: fc.integer({ min: 1, max: 12 }),
  }),
  fc.record({ do: fc.constantFrom("break" as const, "pause" as const, "resume" as const, "wait" as const) }),
);
const pace = fc.constantFrom("at once", "a turn", "some turns", "iterated");

/** partition → sequence numbers, as they were handled. */
type Seen = Record<number, number[]>;

function follow(device: string, start: { timeUs: number }, pace: string, window: Seen): Subscription {
  const connection = dial({ window: { frames: 5 } });
  connections.push(connection);
  const take = (event: { type: string; partition?: number; batch?: { seq: bigint } }) => {
    if (event.type !== "batch") return;
    window[event.partition!] ??= [];
    window[event.partition!].push(Number(event.batch!.seq));
  };
  const turn = () => new Promise((resolve) => setTimeout(resolve, 0));
  const options = { devices: [device], start };
  if (pace === "iterated") {
    const subscription = connection.subscribe(options);
    void (async () => {
      for await (const event of subscription) {
        await turn();
        take(event);
      }
    })();
    return subscription;
  }
  const turns = { "at once": 0, "a turn": 1, "some turns": 4 }[pace]!;
  return connection.subscribe(options, (event) => {
    if (turns === 0) {
      take(event);
      return;
    }
    return (async () => {
      for (let i = 0; i < turns; i++) await turn();
      take(event);
    })();
  });
}

let connections: ReturnType<typeof dial>[] = [];

describe("under any sequence of events", () => {
  it("there is no hole and no repeat", { timeout: 120_000 }, async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(action, { minLength: 5, maxLength: 25 }),
        fc.array(pace, { minLength: 1, maxLength: 3 }),
        async (actions, paces) => {
          connections = [];
          for (const partition of [0, 1]) {
            relay.log[partition].length = 0;
            relay.devices[partition].length = 0;
          }
          const seen: Seen[] = paces.map(() => ({}));
          const subscriptions = paces.map((pace, i) => follow("*", { timeUs: 0 }, pace, seen[i]));
          for (const step of actions) {
            const { log } = relay;
            if (step.do === "append") append(step.count, log[step.partition].length + 1, step.partition);
            else if (step.do === "break") relay.break();
            else if (step.do === "wait") await new Promise((resolve) => setTimeout(resolve, 5));
            else for (const connection of connections) connection[step.do]();
          }
          for (const connection of connections) connection.resume();
          const ends = relay.log.map(({ length }) => length);
          const handled = ({ cursor }: Subscription) => ends.every((end, i) => (cursor[i] ?? 0) >= end);
          await until(() => subscriptions.every(handled), 20_000);
          const numbers = (count: number) => Array.from({ length: count }, (_, i) => i + 1);
          for (const each of seen) {
            for (const [partition, end] of ends.entries())
              expect(each[partition] ?? []).toEqual(numbers(end));
          }
          for (const connection of connections) connection.close();
        },
      ),
      { numRuns: 25 },
    );
  });
});

describe("frames of any kind at any time", () => {
  const id = fc.nat(4);
  const small = fc.bigInt({ min: -3n, max: 40n });
  const cursor = fc.record({
    positions: fc.array(fc.record({ partition: fc.nat(3), offset: small }), { maxLength: 3 }),
  });
  const partition = fc.nat(3);
  const batch = fc.oneof(
    fc.uint8Array({ maxLength: 12 }),
    fc.constantFrom("a", "b").map((device) => toBinary(BatchSchema, create(BatchSchema, { device }))),
  );
  const batches = fc.array(
    fc.constantFrom("a", "b").map((device) => ({ device })),
    { maxLength: 2 },
  );
  const frame = fc.oneof(
    fc.record({
      case: fc.constant("subscribed" as const),
      value: fc.record({ id, filter: fc.nat(3), cursor }),
    }),
    fc.record({ case: fc.constant("caughtUp" as const), value: fc.record({ id, cursor }) }),
    fc.record({
      case: fc.constant("error" as const),
      value: fc.record({ id, code: fc.nat(9), command: fc.string() }),
    }),
    fc.record({
      case: fc.constant("reply" as const),
      value: fc.record({ id: fc.string(), status: fc.nat(9) }),
    }),
    fc.record({
      case: fc.constant("pong" as const),
      value: fc.record({ nonce: fc.bigInt({ min: 0n, max: 9n }) }),
    }),
    fc.record({ case: fc.constant("tokenAccepted" as const), value: fc.record({ tokenExpiresUs: small }) }),
    fc.record({
      case: fc.constant("goodbye" as const),
      value: fc.record({
        retryAfterMs: fc.nat(3),
        cursors: fc.array(fc.record({ id, cursor }), { maxLength: 2 }),
      }),
    }),
    fc.record({
      case: fc.constant("data" as const),
      value: fc.record({ filter: fc.nat(3), partition, offset: small, batch }),
    }),
    fc.record({
      case: fc.constant("latest" as const),
      value: fc.record({ id, batches, merged: fc.nat(5), snapshot: fc.boolean() }),
    }),
    fc.record({ case: fc.constant("series" as const), value: fc.record({ id, cursor, merged: fc.nat(5) }) }),
    fc.record({ case: fc.constant("presence" as const), value: fc.record({ id }) }),
    fc.record({
      case: fc.constant("gap" as const),
      value: fc.record({ id, partition, fromOffset: small, toOffset: small, reason: fc.nat(5) }),
    }),
  );
  const COUNTED = new Set(["data", "latest", "series", "presence", "gap"]);

  it("are each acknowledged once, and leave the connection as it is", { timeout: 60_000 }, async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(frame, { minLength: 1, maxLength: 40 }), async (frames) => {
        relay.acks = [];
        const connection = dial();
        for (const mode of ["all", "latest", "series", "presence"] as const) {
          connection.subscribe({ mode }, async () => {});
        }
        await until(() => relay.requests.length === 4);
        relay.requests.length = 0;
        for (const frame of frames) {
          if (COUNTED.has(frame.case)) relay.tell(frame);
          else relay.send(frame);
        }
        // Presence's own snapshot is one.
        const counted = 1 + frames.filter((frame) => COUNTED.has(frame.case)).length;
        await until(() => relay.acks.at(-1)?.frames === counted);
        expect(connection.status.state).toBe("open");
        expect(connection.stats?.unacked).toEqual({ frames: 0, bytes: 0 });
        expect(connection.stats?.connections).toBe(1);
        connection.close();
        await until(() => relay.idle);
      }),
      { numRuns: 40 },
    );
  });
});
