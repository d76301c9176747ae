/** A relay and connections to it, made anew for each test and taken down after it. */

import { afterEach, beforeEach, expect } from "vitest";
import { WebSocket } from "ws";
import { type Connection, type ConnectOptions, connect, type SubscriptionEvent } from "../src/index.js";
import { Relay } from "./relay.js";

export let relay: Relay;
let open: Connection[] = [];

/** To be called once in each test file. */
export function eachWithRelay(): void {
  beforeEach(async () => {
    relay = await Relay.start();
  });
  afterEach(async () => {
    for (const connection of open) connection.close();
    open = [];
    await relay.stop();
    expect(relay.faults).toEqual([]);
  });
}

export function dial(options: Partial<ConnectOptions> = {}): Connection {
  const connection = connect({
    url: relay.url,
    WebSocket: WebSocket,
    backoff: { baseMs: 20, capMs: 50 },
    ...options,
  });
  open.push(connection);
  return connection;
}

/** Appends batches numbered from `from` on. */
export function append(count: number, from = 1, partition = 0, device = "a"): void {
  for (let seq = from; seq < from + count; seq++)
    relay.append(partition, { device, stream: 7n, seq: BigInt(seq) });
}

/** The sequence numbers of the batches among events. */
export function seqs(events: SubscriptionEvent[]): number[] {
  return events.flatMap((event) => (event.type === "batch" ? [Number(event.batch.seq)] : []));
}

export const upTo = (n: number) => Array.from({ length: n }, (_, i) => i + 1);
