/** A connection that goes on elsewhere, and events by iteration as by callback. */

import { afterEach, describe, expect, it } from "vitest";
import type { SubscribeOptions, SubscriptionEvent } from "../src/index.js";
import { append, dial, eachWithRelay, relay, seqs, upTo } from "./dial.js";
import { Relay } from "./relay.js";
import { until } from "./until.js";

eachWithRelay();

describe("another relay", () => {
  let other: Relay | undefined;
  afterEach(async () => {
    await other?.stop();
    expect(other?.faults ?? []).toEqual([]);
    other = undefined;
  });

  it("of a list takes over where the first said goodbye, with no hole and no repeat", async () => {
    other = await Relay.start();
    append(40);
    // The same log.
    for (const [partition, log] of relay.log.entries()) {
      other.log[partition].push(...log);
      other.devices[partition].push(...relay.devices[partition]);
    }
    const connection = dial({ url: [relay.url, other.url] });
    const goodbyes: string[] = [];
    connection.on("goodbye", ({ reason }) => goodbyes.push(reason));
    const events: SubscriptionEvent[] = [];
    connection.subscribe({ start: { timeUs: 0 } }, (event) => void events.push(event));
    await until(() => seqs(events).length === 40);
    const positions = [
      { partition: 0, offset: 40n },
      { partition: 1, offset: 12n },
    ];
    const cursors = [{ id: 1, cursor: { positions } }];
    relay.send({ case: "goodbye", value: { reason: "drained", retryAfterMs: 1, cursors } });
    relay.break(1001);
    await until(() => connection.status.state === "open" && connection.status.url === other?.url);
    await until(() => other?.requests.length === 1);
    expect(other.requests[0].start?.at.value).toMatchObject({ positions });
    other.append(0, { device: "a", stream: 7n, seq: 41n });
    await until(() => seqs(events).length === 41);
    expect(seqs(events)).toEqual(upTo(41));
    expect(goodbyes).toEqual(["drained"]);
  });

  it("is what a function says, asked before each attempt", async () => {
    const attempts: number[] = [];
    const connection = dial({
      url: async (attempt) => {
        attempts.push(attempt);
        if (attempts.length === 1) throw new Error("not found");
        return attempts.length === 2 ? "ws://127.0.0.1:1/" : relay.url;
      },
    });
    const waits: string[] = [];
    connection.on("status", (status) => {
      if (status.state === "waiting") waits.push(status.error.message);
    });
    await until(() => connection.status.state === "open");
    expect(attempts).toEqual([0, 1, 2]);
    expect(waits[0]).toMatch(/no address to be had: not found/);
    expect(connection.status).toMatchObject({ url: relay.url });
  });

  it("goes on with a series at its cursor", async () => {
    const connection = dial();
    const events: SubscriptionEvent[] = [];
    const subscription = connection.subscribe({ mode: "series" }, (event) => void events.push(event));
    await until(() => relay.requests.length === 1);
    const cursor = { positions: [{ partition: 1, offset: 99n }] };
    relay.tell({ case: "series", value: { id: 1, merged: 1, cursor } });
    await until(() => events.length === 1);
    expect(subscription.cursor).toEqual({ 0: 0, 1: 99 });
    relay.break();
    await until(() => relay.requests.length === 2);
    expect(relay.requests[1].start?.at.value).toMatchObject({
      positions: [
        { partition: 0, offset: 0n },
        { partition: 1, offset: 99n },
      ],
    });
  });

  it("is not tried where there is none", () => {
    expect(() => dial({ url: [] })).toThrow("no url");
    expect(() => dial({ url: "" })).toThrow("no url");
  });
});

describe("events", () => {
  const batches = [{ device: "a" }];
  const kinds: [NonNullable<SubscribeOptions["mode"]>, string, () => void][] = [
    ["all", "batch", () => append(1)],
    ["latest", "latest", () => relay.tell({ case: "latest", value: { id: 1, batches, merged: 1 } })],
    ["series", "series", () => relay.tell({ case: "series", value: { id: 1, merged: 1 } })],
    ["presence", "presence", () => {}],
  ];

  it.each(kinds)(
    "of mode %s come by iteration and by callback, and are acknowledged once handled",
    async (mode, type, tell) => {
      const options = { mode, start: "now" } as const;
      const byCallback: string[] = [];
      const called = dial();
      called.subscribe(options, async (event) => {
        if (event.type === type) byCallback.push(event.type);
      });
      await until(() => relay.requests.length === 1);
      tell();
      await until(() => byCallback.length === 1);
      await until(() => relay.acks.at(-1)?.frames === 1);
      called.close();
      relay.acks = [];
      const iterated = dial().subscribe(options);
      await until(() => relay.requests.length === 2);
      tell();
      const iterator = iterated[Symbol.asyncIterator]();
      let got = await iterator.next();
      if (got.value?.type === "caught-up") got = await iterator.next();
      expect(got.value?.type).toBe(type);
      // Held: not acknowledged before the next is asked for.
      expect(relay.acks).toEqual([]);
      void iterator.next();
      await until(() => relay.acks.at(-1)?.frames === 1);
      await expect(iterated[Symbol.asyncIterator]().next()).rejects.toThrow("iterated over already");
      iterated.close();
    },
  );

  it("say how late they are, by the relay's clock", async () => {
    const connection = dial();
    const events: SubscriptionEvent[] = [];
    connection.subscribe({}, (event) => void events.push(event));
    await until(() => events.length === 1 && connection.stats?.roundTripMs != null);
    expect(connection.stats?.latency).toEqual({ sampleMs: null, arrivalMs: null });
    const at = (ms: number) => ({
      device: "a",
      times: [{ first: BigInt(ms) * 1000n, unit: 1n, count: 1 }],
      columns: [{ metric: "m", values: { case: "bools" as const, value: { values: [true] } } }],
    });
    relay.append(0, at(Date.now() - 3000));
    // Backlog: it says nothing of the way here.
    relay.append(0, at(Date.now() - 60_000));
    await until(() => events.length === 3);
    const { sampleMs, arrivalMs } = connection.stats!.latency;
    expect(sampleMs?.count).toBe(1);
    expect(sampleMs?.p50).toBeGreaterThan(2000);
    expect(sampleMs?.max).toBe(sampleMs?.p99);
    expect(arrivalMs?.count).toBe(2);
    await until(() => connection.stats?.ackDelayMs != null);
  });
});
