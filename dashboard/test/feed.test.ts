import { type Refusal, RefusedError, type SubscribeOptions, type SubscriptionEvent } from "@headwater/client";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Feed } from "../src/feed";

interface Asked {
  options: SubscribeOptions;
  handler: (event: SubscriptionEvent) => void;
  closed: boolean;
  close(): void;
}

// The page's address is read as its modules are loaded.
vi.hoisted(() => {
  vi.stubGlobal("location", { hash: "" });
  vi.stubGlobal("addEventListener", () => {});
});

/** What the feed asks of its connection, and who hears of refusals. */
const line = vi.hoisted(() => ({
  asked: [] as Asked[],
  listeners: new Set<(said: { subscription: unknown; error: Error }) => void>(),
}));

vi.mock("../src/link", () => ({
  clockOffset: () => 0,
  now: () => Date.now(),
  whenConnected: (use: (connection: unknown) => void) => {
    use({
      subscribe(options: SubscribeOptions, handler: Asked["handler"]) {
        const asked: Asked = {
          options,
          handler,
          closed: false,
          close() {
            asked.closed = true;
          },
        };
        line.asked.push(asked);
        return asked;
      },
      on(_: string, listener: (said: { subscription: unknown; error: Error }) => void) {
        line.listeners.add(listener);
        return () => line.listeners.delete(listener);
      },
    });
    return () => {};
  },
}));

const newest = () => line.asked.at(-1)!;
const refuse = (code: Refusal) => {
  const said = { subscription: newest(), error: new RefusedError(code, "not now") };
  for (const listener of [...line.listeners]) listener(said);
};

beforeEach(() => {
  vi.useFakeTimers();
  vi.stubGlobal("document", { addEventListener() {}, removeEventListener() {}, hidden: false });
  line.asked.length = 0;
  line.listeners.clear();
});
afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

describe("a feed that is refused", () => {
  it("reads in full from a relay without buckets, and the present from one without history", () => {
    const feed = new Feed(["a"], { minutes: 60 });
    expect(newest().options.mode).toBe("series");
    refuse("unsupported");
    expect(line.asked.length).toBe(2);
    expect(newest().options).toMatchObject({ mode: "all", start: { timeUs: expect.any(Number) } });
    refuse("bad request");
    expect(newest().options).toMatchObject({ mode: "all", start: "snapshot" });
    refuse("bad request");
    expect(line.asked.length).toBe(3);
    feed.close();
  });

  it("asks for the same again, later each time, over a limit", () => {
    const feed = new Feed(["a"], { minutes: 60 });
    for (let count = 1; count <= 8; count++) {
      refuse("limit");
      expect(line.asked.length).toBe(count);
      vi.advanceTimersByTime(999);
      expect(line.asked.length).toBe(count);
      vi.advanceTimersByTime(60_001);
      expect(line.asked.length).toBe(count + 1);
      expect(line.asked[count - 1].closed).toBe(true);
      expect(newest().options).toMatchObject({ mode: "series", start: { timeUs: expect.any(Number) } });
    }
    refuse("limit");
    feed.close();
    vi.advanceTimersByTime(600_000);
    expect(line.asked.length).toBe(9);
  });

  it("waits for what the relay waits for, which begins by itself", () => {
    const feed = new Feed(["a"], { minutes: 60 });
    refuse("unavailable");
    vi.advanceTimersByTime(50_000);
    expect(line.asked.length).toBe(1);
    expect(newest().closed).toBe(false);
    newest().handler({ type: "series", columns: [], losses: [], merged: 0, widened: false });
    vi.advanceTimersByTime(600_000);
    expect(line.asked.length).toBe(1);
    feed.close();
  });

  it("asks anew when nothing comes of what the relay waited for", () => {
    const feed = new Feed(["a"], { minutes: 60 });
    refuse("unavailable");
    vi.advanceTimersByTime(120_000);
    expect(line.asked.length).toBe(2);
    expect(newest().options).toMatchObject({ mode: "series", start: { timeUs: expect.any(Number) } });
    feed.close();
  });

  it("asks for nothing else when it is not allowed", () => {
    const feed = new Feed(["a"], { minutes: 60 });
    refuse("forbidden");
    vi.advanceTimersByTime(600_000);
    expect(line.asked.length).toBe(1);
    feed.close();
  });
});
