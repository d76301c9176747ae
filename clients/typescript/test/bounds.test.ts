/** What a page holds has a bound, whatever its handlers, its tab and its line do. */

import { afterEach, describe, expect, it } from "vitest";
import type { SubscriptionEvent } from "../src/index.js";
import { append, dial, eachWithRelay, relay, seqs, upTo } from "./dial.js";
import { until } from "./until.js";

eachWithRelay();

/** Events that wait for a subscription's handler. */
const waiting = (subscription: object) => (subscription as { queue: SubscriptionEvent[] }).queue.length;

describe("a handler that never finishes", () => {
  it("holds one window of frames, however often the line breaks, and goes on without hole or repeat", async () => {
    append(300);
    const connection = dial({ window: { frames: 20 } });
    let release: () => void = () => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    const events: SubscriptionEvent[] = [];
    const subscription = connection.subscribe({ start: { timeUs: 0 } }, async (event) => {
      events.push(event);
      if (seqs([event])[0] === 5) await held;
    });
    for (let connections = 1; connections <= 12; connections++) {
      await until(() => connection.stats?.connections === connections && connection.stats.frames >= 20);
      expect(waiting(subscription)).toBeLessThanOrEqual(20);
      relay.break();
      await until(() => connection.status.state !== "open");
      expect(waiting(subscription)).toBe(0);
    }
    expect(seqs(events)).toEqual(upTo(5));
    release();
    await until(() => seqs(events).length === 300);
    expect(seqs(events)).toEqual(upTo(300));
    await until(() => subscription.cursor[0] === 300);
  });

  it("does not pile up what is not counted", async () => {
    const connection = dial();
    const events: SubscriptionEvent[] = [];
    let release: () => void = () => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    const subscription = connection.subscribe({}, async (event) => {
      events.push(event);
      await held;
    });
    await until(() => events.length === 1);
    const frames = () => connection.stats?.messages ?? 0;
    const before = frames();
    for (let i = 1n; i <= 50n; i++) {
      const cursor = { positions: [{ partition: 0, offset: i }] };
      relay.send({ case: "caughtUp", value: { id: 1, cursor } });
    }
    await until(() => frames() >= before + 50);
    expect(waiting(subscription)).toBe(1);
    release();
    await until(() => subscription.cursor[0] === 50);
    expect(events.map(({ type }) => type)).toEqual(["caught-up", "caught-up"]);
  });

  it("keeps the frames that cannot be read in its window too", async () => {
    for (let i = 0; i < 40; i++) {
      relay.log[0].push(new Uint8Array([0x2a, 0x7f]));
      relay.devices[0].push("a");
    }
    const connection = dial({ window: { frames: 8 } });
    const never = new Promise<void>(() => {});
    const subscription = connection.subscribe({ start: { timeUs: 0 } }, () => never);
    await until(() => connection.stats?.frames === 8);
    expect(relay.most.frames).toBe(8);
    expect(waiting(subscription)).toBeLessThanOrEqual(8);
  });

  it("sees a snapshot again whose rest it did not get to, and not one that it has", async () => {
    relay.behind = true;
    const connection = dial();
    let release: () => void = () => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    const events: SubscriptionEvent[] = [];
    connection.subscribe({ start: "snapshot" }, async (event) => {
      events.push(event);
      await held;
    });
    await until(() => relay.requests.length === 1);
    const batches = [{ device: "a" }];
    const snapshot = () =>
      relay.tell({ case: "latest", value: { id: 1, batches, merged: 1, snapshot: true } });
    snapshot();
    snapshot();
    await until(() => connection.stats?.frames === 2);
    relay.break();
    await until(() => relay.requests.length === 2);
    expect(relay.requests[1].start?.at.case).toBe("snapshot");
    relay.behind = false;
    snapshot();
    append(1);
    release();
    await until(() => seqs(events).length === 1);
    relay.break();
    await until(() => relay.requests.length === 3);
    expect(relay.requests[2].start?.at.case).toBe("cursor");
  });
});

describe("a page that is hidden", () => {
  const listeners = new Set<() => void>();
  const page = {
    hidden: false,
    get visibilityState() {
      return this.hidden ? "hidden" : "visible";
    },
    addEventListener: (_: string, listener: () => void) => void listeners.add(listener),
    removeEventListener: (_: string, listener: () => void) => void listeners.delete(listener),
  };
  const show = (shown: boolean) => {
    page.hidden = !shown;
    for (const listener of [...listeners]) listener();
  };
  const looked = (shown = true) => {
    Object.assign(globalThis, { document: page });
    show(shown);
  };

  afterEach(() => {
    expect(listeners.size).toBe(0);
    Reflect.deleteProperty(globalThis, "document");
  });

  it("has a smaller window, and its own again when it is looked at", async () => {
    looked();
    const connection = dial({ window: { frames: 100, bytes: 5_000_000 } });
    await until(() => connection.status.state === "open");
    show(false);
    await until(() => relay.window.frames === 16);
    expect(relay.window).toEqual({ frames: 16, bytes: 262_144 });
    expect(connection.stats?.window).toEqual(relay.window);
    show(true);
    await until(() => relay.window.frames === 100);
    expect(relay.window.bytes).toBe(5_000_000);
    connection.close();
  });

  it("and connects while it is, too", async () => {
    looked(false);
    const connection = dial({ hiddenWindow: { frames: 3 } });
    await until(() => relay.window.frames === 3);
    append(30);
    const events: SubscriptionEvent[] = [];
    connection.subscribe({ start: { timeUs: 0 } }, (event) => void events.push(event));
    await until(() => seqs(events).length === 30);
    expect(relay.most.frames).toBeLessThanOrEqual(3);
    connection.close();
  });

  it("gets nothing if it asks for that, and everything after", async () => {
    looked();
    const connection = dial({ hiddenWindow: { frames: 0 } });
    const events: SubscriptionEvent[] = [];
    connection.subscribe({}, (event) => void events.push(event));
    await until(() => events.length === 1);
    relay.window = { frames: 1, bytes: 1 };
    show(false);
    await until(() => relay.window.frames === 0);
    append(9);
    // A pause of its own outlives the look.
    connection.pause();
    const acks = relay.acks.length;
    show(true);
    connection.resume();
    await until(() => seqs(events).length === 9);
    expect(relay.acks.length).toBeGreaterThan(acks);
    expect(relay.most.frames).toBe(9);
    connection.close();
  });

  it("keeps its window if it is told to", async () => {
    looked(false);
    const connection = dial({ hiddenWindow: null });
    append(1);
    const events: SubscriptionEvent[] = [];
    connection.subscribe({ start: { timeUs: 0 } }, (event) => void events.push(event));
    await until(() => relay.acks.length === 1);
    expect(relay.window.frames).toBe(256);
    connection.close();
  });
});
