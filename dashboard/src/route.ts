/**
 * Where the page is, in the address's hash, so that everything can be linked to and the back button works:
 * `#/?q=plant&show=offline&sort=lost&down=1` the fleet, `#/device/NAME?minutes=15&metric=boiler.flow` a device,
 * `#/compare?device=a&device=b&from=…&to=…` several.
 */

import { signal } from "@preact/signals";

export const ORDERS = ["name", "state", "seen", "rate", "waiting", "lost", "link", "version"] as const;
export type Order = (typeof ORDERS)[number];
export const SHOWS = ["all", "online", "offline", "backlog", "lost"] as const;
export type Show = (typeof SHOWS)[number];

/** What charts show: the last so many minutes, moving on; or a stretch that stands still (milliseconds since the Unix epoch). */
export type Range = { minutes: number } | { from: number; to: number };

export interface FleetRoute {
  page: "fleet";
  search: string;
  show: Show;
  order: Order;
  down: boolean;
}

export interface ChartsRoute {
  page: "device" | "compare";
  devices: string[];
  range: Range;
  /** The one chart to show large; empty: all. */
  metric: string;
}

export type Route = FleetRoute | ChartsRoute;

export const USUAL_MINUTES = 5;
export const PRESETS = [1, 5, 15, 60, 360, 1440, 10_080];
/** As much as fits a reading a second and a year. */
const SHORTEST_MS = 1000;
const LONGEST_MS = 366 * 86_400_000;
/** As many lines as an eye can tell apart. */
export const MOST_COMPARED = 6;

export const FLEET: FleetRoute = { page: "fleet", search: "", show: "all", order: "name", down: false };

export function parse(hash: string): Route {
  const [path, query = ""] = hash.replace(/^#/, "").split("?");
  const asked = new URLSearchParams(query);
  const charts = { range: rangeOf(asked), metric: asked.get("metric") ?? "" };
  const match = /^\/device\/(.+)$/.exec(path);
  if (match) return { page: "device", devices: [decoded(match[1])], ...charts };
  const devices = [...new Set(asked.getAll("device"))].filter(Boolean).slice(0, MOST_COMPARED);
  if (path === "/compare" && devices.length > 0) return { page: "compare", devices, ...charts };
  return {
    page: "fleet",
    search: asked.get("q") ?? "",
    show: SHOWS.find((show) => show === asked.get("show")) ?? "all",
    order: ORDERS.find((order) => order === asked.get("sort")) ?? "name",
    down: asked.get("down") === "1",
  };
}

export function href(route: Route): string {
  const asked = new URLSearchParams();
  if (route.page === "fleet") {
    if (route.search) asked.set("q", route.search);
    if (route.show !== "all") asked.set("show", route.show);
    if (route.order !== "name") asked.set("sort", route.order);
    if (route.down) asked.set("down", "1");
    return `#/${query(asked)}`;
  }
  if (route.page === "compare") for (const device of route.devices) asked.append("device", device);
  if (route.metric) asked.set("metric", route.metric);
  const { range } = route;
  if ("from" in range) {
    asked.set("from", new Date(range.from).toISOString());
    asked.set("to", new Date(range.to).toISOString());
  } else if (range.minutes !== USUAL_MINUTES) asked.set("minutes", String(Number(range.minutes.toFixed(3))));
  return `#/${route.page === "compare" ? "compare" : `device/${encodeURIComponent(route.devices[0])}`}${query(asked)}`;
}

/** The address of one device as it usually is shown. */
export function deviceHref(device: string): string {
  return href({ page: "device", devices: [device], range: { minutes: USUAL_MINUTES }, metric: "" });
}

export const route = signal<Route>(parse(location.hash));

/** Goes there; `replace`: without a step for the back button. */
export function go(to: Route, { replace = false } = {}): void {
  const address = href(to);
  if (address !== location.hash) {
    if (replace) history.replaceState(null, "", address);
    else history.pushState(null, "", address);
  }
  route.value = to;
}

/** Length of a range, milliseconds. */
export function lengthOf(range: Range): number {
  return "from" in range ? range.to - range.from : range.minutes * 60_000;
}

/** Keeps a range within what can be shown: neither too short nor too long, nor in the future; what ends now is live. */
export function bounded(range: { from: number; to: number }, now: number): Range {
  const length = Math.min(LONGEST_MS, Math.max(SHORTEST_MS, range.to - range.from));
  const middle = (range.from + range.to) / 2;
  const to = Math.round(middle + length / 2);
  return to >= now ? { minutes: length / 60_000 } : { from: Math.round(to - length), to };
}

function rangeOf(asked: URLSearchParams): Range {
  const [from, to] = ["from", "to"].map((name) => Date.parse(asked.get(name) ?? ""));
  if (to - from >= SHORTEST_MS && to - from <= LONGEST_MS) return { from, to };
  const minutes = Number(asked.get("minutes"));
  const ok = minutes * 60_000 >= SHORTEST_MS && minutes * 60_000 <= LONGEST_MS;
  return { minutes: ok ? minutes : USUAL_MINUTES };
}

function query(asked: URLSearchParams): string {
  const text = asked.toString();
  return text ? `?${text}` : "";
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    // Not escaped properly: as it stands.
    return text;
  }
}

const follow = () => {
  route.value = parse(location.hash);
};
addEventListener("hashchange", follow);
addEventListener("popstate", follow);
