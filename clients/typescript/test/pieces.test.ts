import fc from "fast-check";
import { describe, expect, it, vi } from "vitest";
import { Backoff } from "../src/backoff.js";
import { ConnectionError } from "../src/errors.js";
import { matcher } from "../src/glob.js";
import { Latency } from "../src/latency.js";
import { within } from "../src/patience.js";
import { AckWindow } from "../src/window.js";

describe("globs", () => {
  it.each([
    ["*", "anything/at all", true],
    ["plant-?", "plant-7", true],
    ["plant-?", "plant-77", false],
    ["plant-[0-4]", "plant-3", true],
    ["plant-[!0-4]", "plant-3", false],
    ["{cpu,memory}.*", "memory.used", true],
    ["{cpu,memory}.*", "disk.used", false],
    ["a.b", "axb", false],
    ["a\\*", "a*", true],
    ["a\\*", "ab", false],
    ["a[]]", "a]", true],
    // As in the gateway (relay/src/gateway/filter.rs).
    ["[]a]", "]", true],
    ["[]a]", "b", false],
    ["[!]a]", "b", true],
    ["[!]a]", "!", true],
    ["[!]a]", "]", false],
    ["[!]a]", "a", false],
    ["[!]a]", "b]", false],
    ["[^]a]x", "bx", true],
    ["[^]a]x", "]x", false],
    ["[!a-c]", "d", true],
    ["[!a-c]", "c", false],
    ["[a-]", "-", true],
    ["a(b|c)+", "a(b|c)+", true],
  ])("%s on %s: %s", (glob, name, is) => {
    expect(matcher([glob])(name)).toBe(is);
  });

  it("take everything when there are none, and any of several", () => {
    expect(matcher([])("x")).toBe(true);
    expect(matcher(["a*", "b*"])("bee")).toBe(true);
  });

  it("that do not close are refused", () => {
    expect(() => matcher(["a[b"])).toThrow(/\[ without \]/);
    expect(() => matcher(["{a,b"])).toThrow(/{ without }/);
  });

  it("take any name as itself when escaped", () => {
    fc.assert(
      fc.property(fc.string({ unit: "grapheme" }), (name) => {
        const escaped = [...name].map((c) => `\\${c}`).join("");
        return matcher([escaped])(name);
      }),
    );
  });
});

describe("the window", () => {
  it("asks for an acknowledgement at half of either measure, or after 50 ms", () => {
    const window = new AckWindow({ frames: 10, bytes: 1000 });
    expect(window.dueIn(0)).toBeNull();
    for (let i = 0; i < 4; i++) {
      window.receive(10);
      window.handle(10, 100);
    }
    expect(window.dueIn(120)).toBe(30);
    expect(window.dueIn(150)).toBe(0);
    window.receive(10);
    window.handle(10, 130);
    expect(window.dueIn(130)).toBe(0);
    expect(window.take()).toEqual({ frames: 5, bytes: 50 });
    expect(window.dueIn(1000)).toBeNull();
    window.receive(500);
    expect(window.unacked()).toEqual({ frames: 1, bytes: 500 });
    window.handle(500, 1000);
    expect(window.dueIn(1000)).toBe(0);
  });
});

describe("backoff", () => {
  it("grows to its cap, with full jitter, on top of what the server asked for", () => {
    const highest = new Backoff({ baseMs: 100, capMs: 1000 }, () => 0.999);
    expect([1, 2, 3, 4, 5, 6].map(() => highest.next())).toEqual([99, 199, 399, 799, 999, 999]);
    highest.reset();
    expect(highest.next(5000)).toBe(5099);
    expect(new Backoff({}, () => 0).next()).toBe(0);
  });
});

describe("close codes", () => {
  it("say what to do", () => {
    expect(new ConnectionError(4401).remedy).toBe("token");
    expect(new ConnectionError(4403).remedy).toBe("stop");
    expect(new ConnectionError(1006).remedy).toBe("reconnect");
    expect(new ConnectionError(4999).message).toMatch(/4999/);
    expect(new ConnectionError(4429, "300 connections").message).toBe(
      "over a limit of the relay: 300 connections",
    );
  });
});

describe("patience", () => {
  it("has an end, and takes what comes before", async () => {
    expect(await within(1000, "thing", "at once")).toBe("at once");
    await expect(within(1000, "thing", Promise.reject(new Error("no")))).rejects.toThrow("no");
    vi.useFakeTimers();
    try {
      const never = within(1000, "thing", new Promise(() => {}));
      const seen = expect(never).rejects.toThrow("no thing after 1 s");
      await vi.advanceTimersByTimeAsync(1000);
      await seen;
      expect(vi.getTimerCount()).toBe(0);
    } finally {
      vi.useRealTimers();
    }
  });
});

describe("latencies", () => {
  it("are those of the newest values, in their order", () => {
    const latency = new Latency(100);
    expect(latency.quantiles()).toBeNull();
    for (let i = 0; i < 50; i++) latency.add(1e9);
    for (let i = 100; i > 0; i--) latency.add(i);
    expect(latency.quantiles()).toEqual({ p50: 51, p90: 91, p99: 100, max: 100, count: 100 });
  });
});
