/** The page's one connection, its token and what is known about it, as signals. */

import { type Connection, connect, RefusedError, type Stats, type Status } from "@headwater/client";
import { signal } from "@preact/signals";

const KEY = "headwater.token";
/** A window that is full so many seconds on end is more than a burst. */
const FULL_S = 3;
/** It is said for so long after it was last so. */
const LAGGING_MS = 10_000;

export const status = signal<Status>({ state: "connecting", attempt: 0 });
export const stats = signal<Stats | null>(null);
/** Set while the relay wants a token that it did not get. */
export const tokenWanted = signal<string | null>(null);
/** The last thing that went wrong and did not end the connection. */
export const trouble = signal<{ kind: string; message: string } | null>(null);
/** How the relay holds back because this page is slow; null: it keeps up. */
export const lagging = signal<string | null>(null);
/** This machine has no network, as far as the browser knows. */
export const offline = signal(navigator.onLine === false);
addEventListener("offline", () => {
  offline.value = true;
});
addEventListener("online", () => {
  offline.value = false;
});
/** Messages, counted frames and bytes in the last second. */
export const flow = signal({ frames: 0, bytes: 0 });
/** Frames, decoded bytes and round trips of the last minute, a value a second. */
export const history = { frames: [] as number[], bytes: [] as number[], roundTrip: [] as number[] };

let connection: Connection | null = null;
const waiting = new Set<(connection: Connection) => void>();

/** Milliseconds to add to this machine's clock to get the relay's. */
export function clockOffset(): number {
  return stats.value?.clockOffsetMs ?? 0;
}

/** The relay's time, milliseconds since the Unix epoch. */
export function now(): number {
  return Date.now() + clockOffset();
}

/** The connection there is. */
export function connected(): Connection {
  if (!connection) throw new Error("the page has no connection yet");
  return connection;
}

/** Calls back with the connection, now and whenever it is made anew with another token. */
export function whenConnected(use: (connection: Connection) => void): () => void {
  waiting.add(use);
  if (connection) use(connection);
  return () => waiting.delete(use);
}

/** Takes a token from `?token=` into the session's storage, so that the address can be shown and shared. */
function takeToken(): void {
  const address = new URL(location.href);
  const token = address.searchParams.get("token");
  if (token === null) return;
  sessionStorage.setItem(KEY, token);
  address.searchParams.delete("token");
  globalThis.history.replaceState(null, "", address.href);
}

export function giveToken(token: string): void {
  sessionStorage.setItem(KEY, token.trim());
  start();
}

export function retryNow(): void {
  if (connection && status.value.state !== "closed") connection.retryNow();
  else start();
}

export function start(): void {
  takeToken();
  connection?.close();
  tokenWanted.value = null;
  const token = sessionStorage.getItem(KEY) ?? "";
  const mine = connect({ url: "./v1/live", token, backoff: { capMs: 8000 } });
  connection = mine;
  let slow = "";
  let slowAt = 0;
  let full = 0;
  let last = { frames: 0, bytes: 0, connections: 0 };
  mine.on("status", (now) => {
    if (connection !== mine) return;
    status.value = now;
    if (now.state === "closed" && now.error?.code === 4401) tokenWanted.value = now.error.message;
    if (now.state === "open") trouble.value = null;
  });
  mine.on("stats", (now) => {
    stats.value = now;
    full = now.unacked.frames >= now.window.frames || now.unacked.bytes >= now.window.bytes ? full + 1 : 0;
    if (full >= FULL_S) {
      slow = `its window of ${now.window.frames} frames is full`;
      slowAt = performance.now();
    }
    lagging.value = slowAt > 0 && performance.now() - slowAt < LAGGING_MS ? slow : null;
    if (now.connections === last.connections) {
      flow.value = { frames: now.frames - last.frames, bytes: now.bytes - last.bytes };
      remember(history.frames, flow.value.frames);
      remember(history.bytes, flow.value.bytes);
      if (now.roundTripMs !== null) remember(history.roundTrip, now.roundTripMs);
    }
    last = { frames: now.frames, bytes: now.bytes, connections: now.connections };
  });
  mine.on("conflated", ({ conflation }) => {
    // Values that come quicker than anyone reads are merged all the time; only a widened bucket tells of a slow page.
    if (conflation.mode !== "series") return;
    slow = `buckets of ${conflation.widthUs / 1e6} s in place of ${conflation.askedUs / 1e6} s`;
    slowAt = performance.now();
  });
  mine.on("error", ({ error }) => {
    trouble.value = { kind: error instanceof RefusedError ? error.code : "", message: error.message };
  });
  mine.on("goodbye", ({ reason }) => {
    trouble.value = { kind: "goodbye", message: `The relay said goodbye: ${reason}` };
  });
  for (const use of waiting) use(mine);
}

function remember(list: number[], value: number): void {
  list.push(value);
  if (list.length > 60) list.shift();
}
