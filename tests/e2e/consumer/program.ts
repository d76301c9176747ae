/**
 * What somebody who installed @headwater/client might write: all of a device's readings by callback, its newest values,
 * its series and its presence by iteration. Prints what it has, in JSON, when it has `count` readings by each way.
 */

import { type Column, connect, type SubscribeOptions, type SubscriptionEvent } from "@headwater/client";
import { WebSocket } from "ws";

const [url = "", device = "", count = ""] = process.argv.slice(2);
// Node's own, where it has one and `ws` is not asked for.
const own = process.env.SOCKET === "own";
const connection = connect({ url, ...(own ? {} : { WebSocket }) });
connection.on("error", ({ error }) => console.error(error));
connection.on("status", (status) => console.error(JSON.stringify(status)));

/** The bits of a double, in hexadecimal. */
function bits(value: number): string {
  const bytes = Buffer.alloc(8);
  bytes.writeDoubleBE(value);
  return bytes.toString("hex");
}

function readings(column: Column): [string, string][] {
  if (column.type !== "f64") throw new TypeError(`${column.metric} is ${column.type}`);
  return Array.from(column.values, (value, i) => [String(column.times[i]), bits(value)]);
}

/** Takes events until one of them brings what is looked for. */
async function first<T>(options: SubscribeOptions, look: (event: SubscriptionEvent) => T | null): Promise<T> {
  for await (const event of connection.subscribe({ devices: [device], ...options })) {
    const found = look(event);
    if (found !== null) return found;
  }
  throw new Error("the subscription ended");
}

const all: Record<string, [string, string][]> = {};
const everything = new Promise<void>((resolve) => {
  let seen = 0;
  connection.subscribe({ devices: [device], start: { timeUs: 0 } }, (event) => {
    if (event.type !== "batch") return;
    for (const column of event.batch.columns) {
      const more = readings(column);
      all[column.metric] = [...(all[column.metric] ?? []), ...more];
      seen += more.length;
    }
    if (seen >= Number(count)) resolve();
  });
});

/** metric → count, least and greatest of all its buckets. */
const buckets: Record<string, { count: number; min: number; max: number }> = {};
const series = first({ mode: "series", intervalMs: 60_000, start: { timeUs: 0 } }, (event) => {
  if (event.type !== "series") return null;
  for (const { metric, counts, min, max } of event.columns) {
    const sum = buckets[metric] ?? { count: 0, min: Infinity, max: -Infinity };
    buckets[metric] = sum;
    sum.count += counts.reduce((a, b) => a + b, 0);
    sum.min = Math.min(sum.min, ...min);
    sum.max = Math.max(sum.max, ...max);
  }
  return Object.values(buckets).reduce((a, b) => a + b.count, 0) >= Number(count) ? buckets : null;
});

const presence = first({ mode: "presence" }, (event) =>
  event.type === "presence" ? (event.devices.find((each) => each.device === device) ?? null) : null,
);

await everything;
const newest = await first({ mode: "latest", start: "snapshot" }, (event) => {
  if (event.type !== "latest" || event.batches.length === 0) return null;
  const columns = event.batches.flatMap((batch) => batch.columns);
  return Object.fromEntries(columns.map((column) => [column.metric, readings(column)[0]]));
});
const { online, lostReadings } = await presence;
console.log(
  JSON.stringify({ all, newest, series: await series, online, lostReadings, stats: connection.stats }),
);
connection.close();
