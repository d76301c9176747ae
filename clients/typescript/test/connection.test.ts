import { describe, expect, it } from "vitest";
import manifest from "../package.json" with { type: "json" };
import { type Connection, connect, type Status, type SubscriptionEvent } from "../src/index.js";
import { VERSION } from "../src/session.js";
import { append, dial, eachWithRelay, relay, seqs, upTo } from "./dial.js";
import { until } from "./until.js";

eachWithRelay();

function statuses(connection: Connection): Status[] {
  const seen: Status[] = [];
  connection.on("status", (status) => seen.push(status));
  return seen;
}

describe("a subscription", () => {
  it("delivers every batch in order, within the window, and acknowledges exactly", async () => {
    append(500);
    const connection = dial({ window: { frames: 16, bytes: 1000 } });
    const events: SubscriptionEvent[] = [];
    connection.subscribe({ start: { timeUs: 0 } }, (event) => void events.push(event));
    await until(() => seqs(events).length === 500);
    expect(seqs(events)).toEqual(upTo(500));
    await until(() => relay.acks.at(-1)?.frames === 500);
    expect(relay.most.frames).toBeLessThanOrEqual(16);
    // At half a window: about 500 / 8 acknowledgements, not one a frame.
    expect(relay.acks.length).toBeLessThan(80);
    expect(connection.stats?.unacked.frames).toBe(0);
  });

  it("acknowledges after an asynchronous handler, and another one's frames meanwhile", async () => {
    append(10);
    append(10, 1, 1, "b");
    const connection = dial({ window: { frames: 256 } });
    let release: () => void = () => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    const slow: number[] = [];
    const quick: SubscriptionEvent[] = [];
    connection.subscribe({ devices: ["a"], start: { timeUs: 0 } }, async (event) => {
      if (event.type !== "batch") return;
      if (event.batch.seq === 3n) await held;
      slow.push(Number(event.batch.seq));
    });
    connection.subscribe({ devices: ["b"], start: { timeUs: 0 } }, (event) => void quick.push(event));
    await until(() => quick.length === 11);
    await until(() => relay.acks.at(-1)?.frames === 12);
    expect(slow).toEqual([1, 2]);
    release();
    await until(() => relay.acks.at(-1)?.frames === 20);
    expect(slow).toEqual(upTo(10));
  });

  it("goes on at its cursor after broken lines, with no hole and no repeat", async () => {
    const connection = dial({ window: { frames: 8 } });
    const events: SubscriptionEvent[] = [];
    const subscription = connection.subscribe({ start: { timeUs: 0 } }, async (event) => {
      events.push(event);
      await new Promise((resolve) => setTimeout(resolve, 0));
    });
    for (let round = 0; round < 8; round++) {
      append(25, 1 + round * 25, round % 2);
      await until(() => seqs(events).length > round * 25 + (round % 3) * 10);
      relay.break();
    }
    await until(() => seqs(events).length >= 200);
    expect([...seqs(events)].sort((a, b) => a - b)).toEqual(upTo(200));
    await until(() => subscription.cursor[0] === 100 && subscription.cursor[1] === 100);
    expect(connection.stats?.connections).toBeGreaterThan(4);
  });

  it("can be gone through with for await, and goes on elsewhere with its cursor", async () => {
    append(20);
    const connection = dial();
    const subscription = connection.subscribe({ start: { timeUs: 0 } });
    const first: number[] = [];
    for await (const event of subscription) {
      if (event.type !== "batch") continue;
      first.push(Number(event.batch.seq));
      if (event.batch.seq === 7n) break;
    }
    // The seventh was not handled when the loop was left.
    expect(subscription.cursor).toEqual({ 0: 6, 1: 0 });
    const events: SubscriptionEvent[] = [];
    dial().subscribe({ start: { cursor: subscription.cursor } }, (event) => void events.push(event));
    await until(() => seqs(events).length === 14);
    expect([...first.slice(0, 6), ...seqs(events)]).toEqual(upTo(20));
    // What the left loop did not take is acknowledged all the same.
    await until(() => relay.acks.some((ack) => ack.frames === 20));
  });

  it("survives a handler that throws, and tells", async () => {
    append(3);
    const connection = dial();
    const errors: string[] = [];
    connection.on("error", ({ error }) => errors.push(error.message));
    const seen: bigint[] = [];
    connection.subscribe({ start: { timeUs: 0 } }, (event) => {
      if (event.type !== "batch") return;
      seen.push(event.batch.seq);
      if (event.batch.seq === 2n) throw new Error("two");
    });
    await until(() => seen.length === 3);
    expect(errors).toEqual(["two"]);
  });

  it("tells a batch that cannot be read as a gap", async () => {
    append(1);
    relay.log[0].push(new Uint8Array([0x2a, 0x7f]));
    relay.devices[0].push("a");
    append(1, 2);
    const connection = dial();
    const gaps: number[] = [];
    const events: SubscriptionEvent[] = [];
    connection.on("gap", ({ gap }) => gaps.push(gap.fromOffset));
    // A series is told a filter, and has no data frames.
    const series = connection.subscribe({ mode: "series", start: "now" }, () => {});
    connection.subscribe({ start: { timeUs: 0 } }, (event) => void events.push(event));
    await until(() => seqs(events).length === 2);
    expect(gaps).toEqual([1]);
    await until(() => relay.acks.at(-1)?.frames === 3);
    expect(series.cursor).toEqual({ 0: 3, 1: 0 });
    relay.break();
    await until(() => relay.requests.length === 4);
    expect(relay.requests[2].start?.at.value).toMatchObject({
      positions: [
        { partition: 0, offset: 3n },
        { partition: 1, offset: 0n },
      ],
    });
  });

  it("starts again where the log was made anew", async () => {
    append(30);
    const connection = dial();
    const events: SubscriptionEvent[] = [];
    connection.subscribe({}, (event) => void events.push(event));
    await until(() => events.length === 1);
    relay.send({ case: "gap", value: { id: 1, partition: 0, fromOffset: 30n, toOffset: 0n, reason: 3 } });
    const value = { filter: 0, partition: 0, offset: 0n, batch: relay.log[0][0] };
    relay.send({ case: "data", value });
    // Sent past the window's count: not for the acknowledgements of this test.
    await until(() => seqs(events).length === 1);
    relay.faults = [];
    connection.close();
  });
});

describe("a connection", () => {
  it("notices a relay that went silent", async () => {
    const connection = dial({ pingMs: 30, staleMs: 60 });
    const seen = statuses(connection);
    await until(() => connection.status.state === "open");
    relay.deaf = true;
    await until(() =>
      seen.some((status) => status.state === "waiting" && /no answer/.test(status.error.message)),
    );
    relay.deaf = false;
    await until(() => connection.status.state === "open");
  });

  it("waits longer for a message that it was told of, and not for ever", async () => {
    const connection = dial({ pingMs: 30, staleMs: 60 });
    const seen = statuses(connection);
    await until(() => connection.status.state === "open");
    // At the slowest pace 1,000 bytes are two seconds.
    relay.send({ case: "coming", value: { bytes: 1000n } });
    const told = performance.now();
    relay.deaf = true;
    await until(() =>
      seen.some((status) => status.state === "waiting" && /no answer/.test(status.error.message)),
    );
    expect(performance.now() - told).toBeGreaterThan(1900);
    relay.deaf = false;
    await until(() => connection.status.state === "open");
  });

  it("ends for good where another try cannot help", async () => {
    const connection = dial();
    await until(() => connection.status.state === "open");
    relay.break(4403);
    await until(() => connection.status.state === "closed");
    expect(connection.status).toMatchObject({ error: { code: 4403 } });
  });

  it("tells goodbye and waits as long as it was asked to", async () => {
    const connection = dial();
    const goodbyes: string[] = [];
    connection.on("goodbye", ({ reason }) => goodbyes.push(reason));
    const seen = statuses(connection);
    await until(() => connection.status.state === "open");
    relay.send({ case: "goodbye", value: { reason: "restart", retryAfterMs: 70 } });
    relay.break(1001);
    await until(() => connection.status.state === "waiting");
    const waiting = seen.find((status) => status.state === "waiting");
    expect(waiting).toMatchObject({ error: { code: 1001 } });
    expect(waiting?.state === "waiting" && waiting.delayMs).toBeGreaterThanOrEqual(70);
    expect(goodbyes).toEqual(["restart"]);
  });

  it("measures the round trip, the clocks' difference and the wire", async () => {
    const connection = dial();
    await until(() => connection.stats?.roundTripMs != null);
    const stats = connection.stats!;
    expect(stats.wire?.bytes).toBe(77);
    expect(Math.abs(stats.clockOffsetMs!)).toBeLessThan(200);
    expect(stats.compressed).toBe(true);
  });

  it("holds everything back while paused, and loses nothing", async () => {
    const connection = dial();
    const events: SubscriptionEvent[] = [];
    connection.subscribe({}, (event) => void events.push(event));
    await until(() => events.length === 1);
    connection.pause();
    await until(() => relay.acks.length > 0);
    append(5);
    await new Promise((resolve) => setTimeout(resolve, 80));
    expect(seqs(events)).toEqual([]);
    connection.resume();
    await until(() => seqs(events).length === 5);
  });

  it("goes on when a listener throws, and hides nothing", async () => {
    const uncaught: unknown[] = [];
    const others = process.listeners("uncaughtException");
    process.removeAllListeners("uncaughtException");
    process.on("uncaughtException", (error) => void uncaught.push(error.message));
    try {
      const connection = dial({ window: { frames: 2 } });
      for (const name of ["status", "conflated", "gap"] as const) {
        connection.on(name, () => {
          throw new Error(name);
        });
      }
      const events: SubscriptionEvent[] = [];
      connection.subscribe({ mode: "latest" }, (event) => void events.push(event));
      await until(() => relay.requests.length === 1);
      relay.tell({ case: "latest", value: { id: 1, merged: 5 } });
      relay.tell({ case: "gap", value: { id: 1, toOffset: 3n } });
      await until(() => relay.acks.at(-1)?.frames === 2 && events.length === 2);
      await until(() => uncaught.length >= 4);
      expect(new Set(uncaught)).toEqual(new Set(["status", "conflated", "gap"]));
      // Its last status, too.
      connection.close();
      await until(() => uncaught.length >= 5);
    } finally {
      process.removeAllListeners("uncaughtException");
      for (const listener of others) process.on("uncaughtException", listener);
    }
  });

  it("shows the fleet", async () => {
    const connection = dial();
    for await (const event of connection.subscribe({ mode: "presence" })) {
      expect(event).toMatchObject({
        type: "presence",
        snapshot: true,
        complete: true,
        devices: [{ device: "a" }],
      });
      break;
    }
  });

  it("says where there is no WebSocket, and names its version", () => {
    expect(VERSION).toBe(manifest.version);
    const had = globalThis.WebSocket;
    try {
      Reflect.deleteProperty(globalThis, "WebSocket");
      expect(() => connect({ url: "ws://127.0.0.1:1" })).toThrow(/no WebSocket/);
    } finally {
      if (had) globalThis.WebSocket = had;
    }
  });
});

describe("a chart", () => {
  const column = (starts: number[], widthS = 1) => ({
    device: "a",
    metric: "m",
    unit: "V",
    startUs: 5_000_000n,
    bucketUs: BigInt(widthS * 1_000_000),
    bucket: starts,
    min: starts.map((i) => i - 0.5),
    max: starts.map((i) => i + 0.5),
    last: starts,
    count: starts.map(() => 10),
    lastUs: starts.map(() => 7n),
  });

  it("gets typed columns of buckets, and is told when they are wider than asked for", async () => {
    const connection = dial();
    const conflations: unknown[] = [];
    connection.on("conflated", ({ conflation }) => conflations.push(conflation));
    const events: SubscriptionEvent[] = [];
    connection.subscribe({ mode: "series", intervalMs: 1000 }, (event) => void events.push(event));
    await until(() => relay.requests.length === 1);
    expect(relay.requests[0]).toMatchObject({ mode: 3, intervalMs: 1000 });
    const losses = [{ device: "a", firstArrivalUs: 1n, lastArrivalUs: 2n, readings: 3n }];
    relay.tell({ case: "series", value: { id: 1, columns: [column([0, 1, 4])], merged: 3, losses } });
    relay.tell({ case: "series", value: { id: 1, columns: [column([0, 1], 4)], merged: 8 } });
    await until(() => events.length === 2);
    expect(events[0]).toEqual({
      type: "series",
      merged: 3,
      widened: false,
      losses: [{ device: "a", firstArrivalUs: 1, lastArrivalUs: 2, readings: 3 }],
      columns: [
        {
          device: "a",
          metric: "m",
          unit: "V",
          widthUs: 1_000_000,
          starts: Float64Array.of(5_000_000, 6_000_000, 9_000_000),
          min: Float64Array.of(-0.5, 0.5, 3.5),
          max: Float64Array.of(0.5, 1.5, 4.5),
          last: Float64Array.of(0, 1, 4),
          lastTimes: Float64Array.of(5_000_007, 6_000_007, 9_000_007),
          counts: Uint32Array.of(10, 10, 10),
        },
      ],
    });
    expect(events[1]).toMatchObject({
      widened: true,
      columns: [{ widthUs: 4_000_000, starts: Float64Array.of(5_000_000, 9_000_000) }],
    });
    expect(conflations).toEqual([{ mode: "series", merged: 8, widthUs: 4_000_000, askedUs: 1_000_000 }]);
    await until(() => relay.acks.at(-1)?.frames === 2);
  });

  it("is told of values that were overwritten, but not of the snapshot", async () => {
    const connection = dial();
    const conflations: unknown[] = [];
    connection.on("conflated", ({ conflation }) => conflations.push(conflation));
    const events: SubscriptionEvent[] = [];
    connection.subscribe({ mode: "latest" }, (event) => void events.push(event));
    await until(() => relay.requests.length === 1);
    const batches = [{ device: "a" }, { device: "b" }];
    relay.tell({ case: "latest", value: { id: 1, batches, merged: 9, snapshot: true } });
    relay.tell({ case: "latest", value: { id: 1, batches, merged: 2 } });
    relay.tell({ case: "latest", value: { id: 1, batches, merged: 5 } });
    await until(() => events.length === 3);
    expect(conflations).toEqual([{ mode: "latest", merged: 5, shown: 2 }]);
    expect(connection.stats?.conflated).toBe(1);
  });
});
