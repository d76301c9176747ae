/** Where the page is, in the address's hash: `#/` the fleet, `#/device/NAME?minutes=15` a device. */

import { signal } from "@preact/signals";

export type Route = { page: "fleet" } | { page: "device"; device: string; minutes: number };

export const WINDOWS = [1, 5, 15, 60];

export function parse(hash: string): Route {
  const [path, query = ""] = hash.replace(/^#/, "").split("?");
  const match = /^\/device\/(.+)$/.exec(path);
  if (!match) return { page: "fleet" };
  const minutes = Number(new URLSearchParams(query).get("minutes"));
  let device = match[1];
  try {
    device = decodeURIComponent(device);
  } catch {
    // Not escaped properly: as it stands.
  }
  return { page: "device", device, minutes: WINDOWS.includes(minutes) ? minutes : 5 };
}

export function href(route: Route): string {
  if (route.page === "fleet") return "#/";
  return `#/device/${encodeURIComponent(route.device)}${route.minutes === 5 ? "" : `?minutes=${route.minutes}`}`;
}

export const route = signal<Route>(parse(location.hash));

addEventListener("hashchange", () => {
  route.value = parse(location.hash);
});
