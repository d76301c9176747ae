import { describe, expect, it, vi } from "vitest";

vi.stubGlobal("location", { hash: "", href: "http://127.0.0.1/" });
vi.stubGlobal("addEventListener", () => {});
const { parse, href } = await import("../src/route");
const { group, label } = await import("../src/group");
const { select } = await import("../src/fleet");
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
  it("go there and back", () => {
    const route = { page: "device", device: "plant 7/ü?#", minutes: 15 } as const;
    expect(parse(href(route))).toEqual(route);
    expect(parse("#/")).toEqual({ page: "fleet" });
    expect(parse("#/device/a?minutes=99999")).toEqual({ page: "device", device: "a", minutes: 5 });
    expect(parse("#/device/%")).toMatchObject({ device: "%" });
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
  const device = (name: string, online: boolean, readingsPerS: number) => ({
    name,
    online,
    since: 0,
    lastSeen: 0,
    readingsPerS,
    lagMs: 0,
    lost: 0,
    version: "0.1.0",
    target: "aarch64-unknown-linux-musl",
    hostname: "",
    waiting: { batches: 0, readings: 0, bytes: 0, oldest: 0 },
    trace: [],
  });
  const all = [device("plant-10", true, 5), device("plant-2", false, 0), device("barn", true, 5)];

  it("is searched by all words and sorted as people count", () => {
    expect(select(all, "", "name", false).map((d) => d.name)).toEqual(["barn", "plant-2", "plant-10"]);
    expect(select(all, "PLANT online", "name", false).map((d) => d.name)).toEqual(["plant-10"]);
    expect(select(all, "", "rate", true).map((d) => d.name)).toEqual(["barn", "plant-10", "plant-2"]);
  });
});
