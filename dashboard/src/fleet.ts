/** The fleet as the relay knows it: one row a device, kept up by a PRESENCE subscription. */

import type { DevicePresence, Subscription } from "@headwater/client";
import { signal } from "@preact/signals";
import { whenConnected } from "./link";

export interface Device {
  name: string;
  online: boolean;
  /** Since when it is as it is, milliseconds. */
  since: number;
  lastSeen: number;
  readingsPerS: number;
  lagMs: number;
  lost: number;
  version: string;
  target: string;
  hostname: string;
  waiting: { batches: number; readings: number; bytes: number; oldest: number };
  /** Readings a second, one value every two seconds, the newest last. */
  trace: number[];
}

const devices = new Map<string, Device>();

/** All devices; a new array whenever something changed, at most twice a second. */
export const fleet = signal<Device[]>([]);
/** The first picture of the fleet is complete. */
export const known = signal(false);

/** Counts seconds: what shows how long ago something was reads it, and so moves on though nothing arrives. */
export const beat = signal(0);

let changed = false;
let subscription: Subscription | null = null;

export function watchFleet(): void {
  whenConnected((connection) => {
    subscription?.close();
    subscription = connection.subscribe({ mode: "presence", intervalMs: 500 }, (event) => {
      if (event.type !== "presence") return;
      if (event.snapshot && !inSnapshot) {
        inSnapshot = new Set();
      }
      for (const presence of event.devices) take(presence);
      if (event.complete && inSnapshot) {
        // What a reconnect no longer finds is gone.
        for (const name of devices.keys()) if (!inSnapshot.has(name)) devices.delete(name);
        inSnapshot = null;
        known.value = true;
      }
      changed = true;
    });
  });
  setInterval(() => {
    if (!changed) return;
    changed = false;
    fleet.value = [...devices.values()];
  }, 500);
  setInterval(() => {
    beat.value += 1;
  }, 1000);
  setInterval(() => {
    for (const device of devices.values()) {
      device.trace.push(device.readingsPerS);
      if (device.trace.length > 45) device.trace.shift();
    }
    changed = devices.size > 0;
  }, 2000);
}

let inSnapshot: Set<string> | null = null;

function take(presence: DevicePresence): void {
  const name = presence.device;
  inSnapshot?.add(name);
  if (presence.removed) {
    devices.delete(name);
    return;
  }
  const { agent, waiting } = presence;
  devices.set(name, {
    name,
    online: presence.online,
    since: Number(presence.sinceUs) / 1000,
    lastSeen: Number(presence.lastSeenUs) / 1000,
    readingsPerS: presence.readingsPerS,
    lagMs: Number(presence.lagUs) / 1000,
    lost: Number(presence.lostReadings),
    version: agent?.version ?? "",
    target: agent?.target ?? "",
    hostname: agent?.hostname ?? "",
    waiting: {
      batches: Number(waiting?.batches ?? 0n),
      readings: Number(waiting?.readings ?? 0n),
      bytes: Number(waiting?.bytes ?? 0n),
      oldest: Number(waiting?.oldestUs ?? 0n) / 1000,
    },
    trace: devices.get(name)?.trace ?? [],
  });
}

export type Order = "name" | "state" | "rate" | "waiting" | "lost" | "seen";

/** Those whose name holds all of the search's words, in this order; ties by name. */
export function select(all: readonly Device[], search: string, order: Order, down: boolean): Device[] {
  const words = search.toLowerCase().split(/\s+/).filter(Boolean);
  const found = all.filter((device) => {
    const text = `${device.name} ${device.version} ${device.target} ${device.hostname} ${device.online ? "online" : "offline"}`;
    return words.every((word) => text.toLowerCase().includes(word));
  });
  const by = KEYS[order];
  const sign = down ? -1 : 1;
  return found.sort(
    (a, b) => sign * (by(a) - by(b)) || names.compare(a.name, b.name) * (order === "name" ? sign : 1),
  );
}

const names = new Intl.Collator("en", { numeric: true });

const KEYS: Record<Order, (device: Device) => number> = {
  name: () => 0,
  state: (device) => (device.online ? 1 : 0),
  rate: (device) => device.readingsPerS,
  waiting: (device) => device.waiting.readings,
  lost: (device) => device.lost,
  seen: (device) => device.lastSeen,
};
