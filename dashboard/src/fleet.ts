/** The fleet as the relay knows it: one entry a device, kept up by a PRESENCE subscription. */

import type { DevicePresence, Subscription } from "@headwater/client";
import { signal } from "@preact/signals";
import { whenConnected } from "./link";
import { sortKey } from "./selection";
import { subscribe } from "./watch";

export interface Device {
  name: string;
  /** The name as it sorts, and what a search looks at. */
  key: string;
  text: string;
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
  waiting: { batches: number; readings: number; oldest: number };
  /** Readings a second, one value every two seconds, the newest last. */
  trace: number[];
}

/** What the whole fleet adds up to. */
export interface Totals {
  online: number;
  readingsPerS: number;
  waiting: number;
  backlog: number;
  lost: number;
  losing: number;
  /** Median of those that send; NaN: none does. */
  lagMs: number;
}

const NOTHING = {
  text: "",
  online: false,
  since: 0,
  lastSeen: 0,
  readingsPerS: 0,
  lagMs: 0,
  lost: 0,
  version: "",
  target: "",
  hostname: "",
  waiting: { batches: 0, readings: 0, oldest: 0 },
};

const devices = new Map<string, Device>();

/** All devices, in no order; a new array whenever something changed, at most twice a second. */
export const fleet = signal<readonly Device[]>([]);
export const totals = signal<Totals>(sum([]));
/** The fleet's readings a second, one value every two seconds. */
export const trace: number[] = [];
/** The first picture of the fleet is complete. */
export const known = signal(false);
/** Counts seconds: what shows how long ago something was reads it, and so moves on though nothing arrives. */
export const beat = signal(0);

/** Old enough to be a backlog and no batch being filled, milliseconds. */
export const LATE_MS = 10_000;
const TRACE = 45;

let changed = false;
let subscription: Subscription | null = null;
let inSnapshot: Set<string> | null = null;

/** What is known of a device. Reads `fleet`, so that it follows it. */
export function find(name: string): Device | undefined {
  void fleet.value;
  return devices.get(name);
}

/** How long its oldest reading has waited, milliseconds; 0: nothing that is late. */
export function backlogAge(device: Device, now: number): number {
  const { batches, oldest } = device.waiting;
  const age = batches > 0 && oldest > 0 ? now - oldest : 0;
  return age > LATE_MS ? age : 0;
}

export function watchFleet(): void {
  whenConnected((connection) => {
    subscription?.close();
    inSnapshot = null;
    subscription = subscribe(connection, { mode: "presence", intervalMs: 500 }, (event) => {
      if (event.type !== "presence") return;
      if (event.snapshot) inSnapshot ??= new Set();
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
    // Half a picture is none: what a new connection brings is shown when it is complete.
    if (!changed || inSnapshot || document.hidden) return;
    changed = false;
    fleet.value = [...devices.values()];
    totals.value = sum(fleet.value);
  }, 500);
  setInterval(() => {
    if (!document.hidden) beat.value += 1;
  }, 1000);
  setInterval(() => {
    for (const device of devices.values()) remember(device.trace, device.readingsPerS);
    remember(trace, totals.value.readingsPerS);
    changed = devices.size > 0;
  }, 2000);
}

function remember(list: number[], value: number): void {
  list.push(value);
  if (list.length > TRACE) list.shift();
}

function take(presence: DevicePresence): void {
  const name = presence.device;
  inSnapshot?.add(name);
  if (presence.removed) {
    devices.delete(name);
    return;
  }
  // In place: ten thousand new objects a second would keep the collector busier than all else.
  let device = devices.get(name);
  if (!device) {
    device = { ...NOTHING, name, key: sortKey(name), waiting: { ...NOTHING.waiting }, trace: [] };
    devices.set(name, device);
  }
  const { agent, waiting } = presence;
  const version = agent?.version ?? "";
  const target = agent?.target ?? "";
  const hostname = agent?.hostname ?? "";
  if (
    device.text === "" ||
    device.version !== version ||
    device.target !== target ||
    device.hostname !== hostname
  ) {
    device.version = version;
    device.target = target;
    device.hostname = hostname;
    device.text = `${name} ${version} ${target} ${hostname}`.toLowerCase();
  }
  device.online = presence.online;
  device.since = presence.sinceUs / 1000;
  device.lastSeen = presence.lastSeenUs / 1000;
  device.readingsPerS = presence.readingsPerS;
  device.lagMs = presence.lagUs / 1000;
  device.lost = presence.lostReadings;
  device.waiting.batches = waiting?.batches ?? 0;
  device.waiting.readings = waiting?.readings ?? 0;
  device.waiting.oldest = (waiting?.oldestUs ?? 0) / 1000;
}

function sum(all: readonly Device[]): Totals {
  const made = { online: 0, readingsPerS: 0, waiting: 0, backlog: 0, lost: 0, losing: 0 };
  const lags = new Float64Array(all.length);
  let sending = 0;
  const now = Date.now();
  for (const device of all) {
    if (device.online) made.online += 1;
    made.readingsPerS += device.readingsPerS;
    // What is being gathered into a batch does not wait yet.
    if (device.waiting.batches > 0) made.waiting += device.waiting.readings;
    if (backlogAge(device, now) > 0) made.backlog += 1;
    made.lost += device.lost;
    if (device.lost > 0) made.losing += 1;
    if (device.online && device.readingsPerS > 0) lags[sending++] = device.lagMs;
  }
  const sorted = lags.subarray(0, sending).sort();
  return { ...made, lagMs: sending > 0 ? sorted[sending >> 1] : Number.NaN };
}
