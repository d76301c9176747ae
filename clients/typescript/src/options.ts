/** How a connection is set up, and what it tells. */

import type { BackoffOptions } from "./backoff.js";
import type { ConnectionError } from "./errors.js";
import type { Gap, Subscription } from "./subscription.js";
import type { Amount } from "./window.js";

/** What the client needs of a WebSocket: browsers' own, Node's own (≥ 22), or the `ws` package's. */
export interface WebSocketLike {
  binaryType: string;
  readonly readyState: number;
  readonly extensions: string;
  send(data: Uint8Array<ArrayBuffer>): void;
  close(code?: number, reason?: string): void;
  onopen: ((event: never) => unknown) | null;
  onmessage: ((event: never) => unknown) | null;
  onclose: ((event: never) => unknown) | null;
  onerror: ((event: never) => unknown) | null;
}

export type WebSocketConstructor = new (url: string, protocols: string[]) => WebSocketLike;

export interface ConnectOptions {
  /** `ws://…` or `wss://…`; in a browser a path (`/v1/live`) on the page's own origin will do. */
  url: string;
  /** A JWT, or a function that fetches one: called for each connection and before the token expires. */
  token?: string | (() => string | Promise<string>);
  /** How much the server may have unacknowledged. Default 256 frames, 4 MiB; the server may cap it. */
  window?: Partial<Amount>;
  /** Default: the global one. On Node 20 pass that of the `ws` package. */
  WebSocket?: WebSocketConstructor;
  backoff?: BackoffOptions;
  /** Every so long the connection is tried with a ping. Default 10,000. */
  pingMs?: number;
  /** A connection that brings nothing for so long after a ping is given up. Default 10,000. */
  staleMs?: number;
}

/** Where the connection is. */
export type Status =
  | { state: "connecting"; attempt: number }
  | {
      state: "open";
      server: string;
      subject: string;
      partitions: number;
      tokenExpiresUs: number;
      compressed: boolean;
    }
  | { state: "waiting"; attempt: number; delayMs: number; error: ConnectionError }
  | { state: "closed"; error?: ConnectionError };

/** Figures of the present connection. */
export interface Stats {
  /** Counted frames received. */
  frames: number;
  /** Messages of all kinds received. */
  messages: number;
  /** Bytes of all messages received, decompressed. */
  bytes: number;
  /** What the server wrote to the socket, and the decompressed bytes of the same; null: the server does not tell. */
  wire: { bytes: number; decoded: number } | null;
  /** Received and not acknowledged. */
  unacked: Amount;
  /** The window in force. */
  window: Amount;
  /** Acknowledgements sent. */
  acks: number;
  /** Milliseconds; null: not measured yet. */
  roundTripMs: number | null;
  /** The server's clock minus this one's, milliseconds, from the quickest of the last pings; null: not yet. */
  clockOffsetMs: number | null;
  /** permessage-deflate was agreed. */
  compressed: boolean;
  /** Connections made since `connect`. */
  connections: number;
}

/** What `on` listens to. */
export interface Events {
  status: Status;
  /** Something could not be delivered to this subscription. */
  gap: { subscription: Subscription; gap: Gap };
  /** The server says why it is about to close. */
  goodbye: { reason: string; retryAfterMs: number };
  /** Once a second while open. */
  stats: Stats;
  /** A request the server refused, a frame that could not be read, a handler that threw. The connection goes on. */
  error: { subscription: Subscription | null; error: Error };
}
