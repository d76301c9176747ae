import fc from "fast-check";
import { describe, expect, it, vi } from "vitest";
import type { Device } from "../src/fleet";
import type { Route } from "../src/route";

vi.stubGlobal("location", { hash: "", href: "http://127.0.0.1/" });
vi.stubGlobal("addEventListener", () => {});
const { bounded, parse, href, FLEET, ORDERS } = await import("../src/route");
const { byMetric, group, label } = await import("../src/group");
const { select, sortKey } = await import("../src/selection");
const format = await import("../src/format");

describe("figures", () => {
  it.each([
    [0, "0.00"],
    [54, "54.00"],
    [21.456, "21.46"],
    [-3.5, "−3.50"],
    [1234.5, "1\u202f235"],
    [1e15, "1.000e+15"],
    [0.00001, "1.000e−5"],
    [Number.NaN, "NaN"],
    [-Infinity, "−∞"],
  ])("%d is %s", (value, text) => {
    expect(format.number(value)).toBe(text);
  });

  it("are whole where the type is", () => {
    expect(format.number(54, true)).toBe("54");
  });

  it("have units as people write them", () => {
    expect(format.quantity(21.5, "Cel")).toEqual({ value: "21.50", unit: "°C" });
    expect(format.quantity(1_234_000, "By/s")).toEqual({ value: "1.2", unit: "MB/s" });
  });

  it("tell time calmly", () => {
    expect(format.ago(900)).toBe("now");
    expect(format.span(3_700_000)).toBe("1 h 1 min");
    expect(format.latency(4.26)).toBe("4.3 ms");
  });
});

describe("routes", () => {
  const charts = { range: { minutes: 5 }, metric: "" };
  it.each([
    FLEET,
    { page: "fleet", search: "plant 7", show: "offline", order: "lost", down: true },
    { page: "device", devices: ["plant 7/ü?#"], range: { minutes: 15 }, metric: "boiler.flow" },
    { page: "device", devices: ["a"], range: { from: 1_790_000_000_000, to: 1_790_000_060_500 }, metric: "" },
    { page: "compare", devices: ["a&b", "c=d", "é"], range: { minutes: 0.5 }, metric: "m" },
  ] satisfies Route[])("go there and back: %j", (route) => {
    expect(parse(href(route))).toEqual(route);
  });

  it.each([
    ["#/device/a?minutes=99999999", { page: "device", devices: ["a"], ...charts }],
    ["#/device/a?minutes=NaN", { page: "device", devices: ["a"], ...charts }],
    ["#/device/a?from=2026-01-02&to=2026-01-01", { page: "device", devices: ["a"], ...charts }],
    ["#/device/%", { page: "device", devices: ["%"], ...charts }],
    ["#/compare", FLEET],
    ["#/nowhere?sort=up&show=me", FLEET],
  ])("%s makes sense as far as it does", (hash, route) => {
    expect(parse(hash)).toEqual(route);
  });

  it("take no more devices than an eye can tell apart, each once", () => {
    const hash = `#/compare?${["a", "a", "b", "c", "d", "e", "f", "g"].map((d) => `device=${d}`).join("&")}`;
    expect(parse(hash)).toMatchObject({ devices: ["a", "b", "c", "d", "e", "f"] });
  });
});

describe("a range", () => {
  const now = 1_790_000_000_000;
  it("that reaches the present is live", () => {
    expect(bounded({ from: now - 50_000, to: now + 10_000 }, now)).toEqual({ minutes: 1 });
  });
  it("in the past stands still, and is neither too short nor too long", () => {
    expect(bounded({ from: now - 90_000, to: now - 30_000 }, now)).toEqual({
      from: now - 90_000,
      to: now - 30_000,
    });
    expect(bounded({ from: now - 60_000.5, to: now - 60_000 }, now)).toEqual({
      from: now - 60_500,
      to: now - 59_500,
    });
    const long = bounded({ from: 0, to: now - 1 }, now);
    expect("from" in long && long.to - long.from).toBeLessThanOrEqual(366 * 86_400_000);
  });
});

describe("groups", () => {
  it("put metrics of one family and unit together", () => {
    const metrics = ["cpu.user", "cpu.system", "memory.used", "temperature"].map((metric) => ({
      metric,
      unit: metric === "temperature" ? "Cel" : "%",
    }));
    const made = group(metrics);
    expect(made.map((each) => [each.title, each.members.length])).toEqual([
      ["cpu", 2],
      ["memory.used", 1],
      ["temperature", 1],
    ]);
    expect(label("cpu.user", "cpu")).toBe("user");
  });

  it("begin with what is measured, and end with what an agent tells of itself", () => {
    const made = group(["agent.lost", "zone", "cpu"].map((metric) => ({ metric, unit: "" })));
    expect(made.map(({ title }) => title)).toEqual(["cpu", "zone", "agent.lost"]);
  });

  it("put devices beside each other, each in its place", () => {
    const line = (device: string, metric: string) => ({ device, metric, unit: "" });
    const made = byMetric([line("b", "x"), line("a", "y"), line("a", "x"), line("b", "y")], ["b", "a"]);
    expect(made.map((each) => [each.title, each.members.map(({ device }) => device)])).toEqual([
      ["x", ["b", "a"]],
      ["y", ["b", "a"]],
    ]);
  });

  it("never hold more than an eye can tell apart", () => {
    const metrics = Array.from({ length: 20 }, (_, i) => ({ metric: `core.${i}`, unit: "%" }));
    const made = group(metrics);
    expect(made.map((each) => each.members.length)).toEqual([5, 5, 5, 5]);
    expect(made.flatMap((each) => each.members.map((member) => member.metric))).toEqual(
      metrics.map((m) => m.metric),
    );
  });
});

describe("the fleet", () => {
  const device = (
    name: string,
    online: boolean,
    readingsPerS: number,
    more: Partial<Device> = {},
  ): Device => ({
    name,
    key: sortKey(name),
    text: `${name} 0.1.0 aarch64`,
    online,
    since: 0,
    lastSeen: 0,
    readingsPerS,
    lagMs: 0,
    lost: 0,
    version: "0.1.0",
    target: "aarch64-unknown-linux-musl",
    hostname: "",
    waiting: { batches: 0, readings: 0, oldest: 0 },
    trace: [],
    ...more,
  });
  const all = [device("plant-10", true, 5), device("plant-2", false, 0), device("barn", true, 5)];
  const names = (asked: Partial<typeof FLEET>, list = all, before?: Device[]) =>
    select(list, { ...FLEET, ...asked }, (each) => each.waiting.batches > 0, before).map(({ name }) => name);

  it("is searched by all words and sorted as people count", () => {
    expect(names({})).toEqual(["barn", "plant-2", "plant-10"]);
    expect(names({ search: "PLANT 10 arch" })).toEqual(["plant-10"]);
    expect(names({ search: "plant", show: "offline" })).toEqual(["plant-2"]);
    expect(names({ order: "rate", down: true })).toEqual(["barn", "plant-10", "plant-2"]);
  });

  it("is sorted by how long readings wait, those with none last", () => {
    const waiting = (oldest: number) => ({ waiting: { batches: 1, readings: 1, oldest } });
    const some = [...all, device("late", true, 1, waiting(1000)), device("later", true, 1, waiting(500))];
    expect(names({ order: "waiting", down: true }, some).slice(0, 2)).toEqual(["later", "late"]);
    expect(names({ show: "backlog" }, some)).toEqual(["late", "later"]);
  });

  it("keeps apart what sorts alike", () => {
    const alike = ["a-1", "a-01", "A-1"].map((name) => device(name, true, 1));
    expect(names({}, alike, alike).sort()).toEqual(["A-1", "a-01", "a-1"]);
  });

  it("comes to the same order from whatever order there was", () => {
    const random = fc.array(
      fc.record({ name: fc.string({ maxLength: 3 }), online: fc.boolean(), rate: fc.nat(3) }),
      { maxLength: 30 },
    );
    fc.assert(
      fc.property(random, random, fc.constantFrom(...ORDERS), fc.boolean(), (now, earlier, order, down) => {
        const make = (list: typeof now) => [
          ...new Map(list.map((each) => [each.name, device(each.name, each.online, each.rate)])).values(),
        ];
        expect(names({ order, down }, make(now), make(earlier))).toEqual(names({ order, down }, make(now)));
      }),
    );
  });
});
