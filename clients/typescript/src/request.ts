/** What the client sends: `headwater.v1.ClientFrame`, one function a kind. live.proto is the contract. */

import { type Cursor, positions } from "./cursor.js";
import type { Amount } from "./window.js";
import { Writer } from "./writer.js";

/** `MODE_…` of live.proto. */
export const MODES = { all: 1, latest: 2, series: 3, presence: 4 } as const;

export type Start = "now" | "snapshot" | { timeUs: number } | { cursor: Cursor };

export interface Subscribe {
  id: number;
  devices: readonly string[];
  metrics: readonly string[];
  mode: keyof typeof MODES;
  start: Start;
  intervalMs: number;
}

export interface Command {
  id: string;
  device: string;
  name: string;
  arguments: readonly string[];
  expiresUs: number;
}

export function hello(client: string, token: string, window: Amount): Uint8Array<ArrayBuffer> {
  return frame(1, new Writer().text(1, client).text(2, token).message(3, amount(window)));
}

export function subscribe(request: Subscribe): Uint8Array<ArrayBuffer> {
  const { id, devices, metrics, mode, start, intervalMs } = request;
  const at = new Writer();
  // Members of a oneof are written even when they are zero.
  if (start === "now") at.int(1, 1);
  else if (start === "snapshot") at.int(2, 1);
  else if ("timeUs" in start) at.member(3, Math.round(start.timeUs));
  else at.message(4, positions(start.cursor));
  return frame(
    2,
    new Writer()
      .int(1, id)
      .texts(2, devices)
      .texts(3, metrics)
      .int(4, MODES[mode])
      .message(5, at)
      .int(6, intervalMs),
  );
}

export function unsubscribe(id: number): Uint8Array<ArrayBuffer> {
  return frame(3, new Writer().int(1, id));
}

/** Cumulative and absolute, with the window from now on. */
export function ack(total: Amount, window: Amount): Uint8Array<ArrayBuffer> {
  return frame(4, new Writer().int(1, total.frames).int(2, total.bytes).message(3, amount(window)));
}

export function token(token: string): Uint8Array<ArrayBuffer> {
  return frame(5, new Writer().text(1, token));
}

export function command(command: Command): Uint8Array<ArrayBuffer> {
  const { id, device, name, expiresUs } = command;
  return frame(
    6,
    new Writer().text(1, id).text(2, device).text(3, name).texts(4, command.arguments).int(5, expiresUs),
  );
}

export function ping(nonce: number): Uint8Array<ArrayBuffer> {
  return frame(7, new Writer().int(1, nonce));
}

function frame(kind: number, message: Writer): Uint8Array<ArrayBuffer> {
  return new Writer().message(kind, message).finish();
}

function amount({ frames, bytes }: Amount): Writer {
  return new Writer().int(1, frames).int(2, bytes);
}
