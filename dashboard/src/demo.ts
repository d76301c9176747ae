/** The demo's switch: which gateways' links are up, and what waits behind those that are not. Absent outside of the demo. */

import { signal } from "@preact/signals";
import { find } from "./fleet";

export interface DemoAgent {
  device: string;
  kind: string;
  link: "up" | "down";
  waiting_batches: number;
  waiting_readings: number;
  waiting_bytes: number;
  oldest_us: number;
}

/** Where a device is in the story of a cut link. */
export interface Cut {
  phase: "down" | "draining" | "drained";
  /** When this phase began, milliseconds. */
  since: number;
  /** The most readings that waited. */
  most: number;
  /** Readings that the agent had given up, over all its life, when the link was cut. */
  lostBefore: number;
}

/** Null outside of the demo. */
export const agents = signal<ReadonlyMap<string, DemoAgent> | null>(null);
export const cuts = signal<ReadonlyMap<string, Cut>>(new Map());

/** A backlog of so few readings is what any live agent holds between two acknowledgements. */
const FEW = 1.5;

export async function watchDemo(): Promise<void> {
  for (;;) {
    try {
      const response = await fetch("./demo/agents", { headers: { accept: "application/json" } });
      if (response.status === 404) return;
      if (response.ok) take((await response.json()) as DemoAgent[]);
    } catch {
      // The relay is away: the connection says so already.
    }
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

const usual = new Map<string, number>();

function take(list: DemoAgent[]): void {
  if (!Array.isArray(list)) return;
  agents.value = new Map(list.map((agent) => [agent.device, agent]));
  const next = new Map(cuts.value);
  for (const agent of list) {
    const was = next.get(agent.device);
    const waiting = agent.waiting_readings;
    if (agent.link === "down") {
      const most = Math.max(waiting, was?.phase === "down" ? was.most : 0);
      const fresh = { since: Date.now(), lostBefore: lost(agent.device) };
      const { since, lostBefore } = was?.phase === "down" ? was : fresh;
      next.set(agent.device, { phase: "down", since, most, lostBefore });
      continue;
    }
    const few = Math.max(200, (usual.get(agent.device) ?? 0) * FEW);
    if (was?.phase === "down") {
      const phase = waiting > few ? "draining" : "drained";
      next.set(agent.device, { ...was, phase, since: Date.now() });
    } else if (was?.phase === "draining") {
      if (waiting <= few) next.set(agent.device, { ...was, phase: "drained", since: Date.now() });
    } else if (was?.phase === "drained") {
      if (Date.now() - was.since > 20_000) next.delete(agent.device);
    } else {
      usual.set(agent.device, Math.max(waiting, (usual.get(agent.device) ?? 0) * 0.95));
    }
  }
  cuts.value = next;
}

/** Readings that a device's agent has given up so far. */
export function lost(device: string): number {
  return find(device)?.lost ?? 0;
}

/** Cuts or restores a link; says why where it did not work. */
export async function setLink(device: string, up: boolean): Promise<string | null> {
  try {
    const response = await fetch(`./demo/agents/${encodeURIComponent(device)}/link`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ up }),
    });
    if (!response.ok) return `the relay answered ${response.status}`;
    const all = agents.value;
    const agent = all?.get(device);
    if (all && agent) {
      // Shown at once; the next poll confirms it.
      take([...all.values()].map((each) => (each === agent ? { ...each, link: up ? "up" : "down" } : each)));
    }
    return null;
  } catch {
    return "the relay cannot be reached";
  }
}
