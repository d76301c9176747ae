/** How a connection is set up, and what it tells. */

import type { BackoffOptions } from "./backoff.js";
import type { ConnectionError } from "./errors.js";
import type { Quantiles } from "./latency.js";
import type { Conflation, Gap, Subscription } from "./subscription.js";
import type { TokenSource } from "./token.js";
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
  /**
   * `ws://…` or `wss://…`; in a browser a path (`/v1/live`) on the page's own origin will do. Of several, or with a
   * function (asked before each attempt), the next one is taken when a connection ends: all subscriptions go on there.
   */
  url: string | readonly string[] | ((attempt: number) => string | Promise<string>);
  /** A JWT, or a function that fetches one: called for each connection and before the token expires, again until it succeeds. */
  token?: TokenSource;
  /** How much the server may have unacknowledged. Default 256 frames, 4 MiB; the server may cap it. */
  window?: Partial<Amount>;
  /**
   * The window while the page is hidden (`document.visibilityState`); null: the same as ever. Default 16 frames,
   * 256 KiB. `{ frames: 0 }` holds everything back until the page is looked at. Of no effect where there is no document.
   */
  hiddenWindow?: Partial<Amount> | null;
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
      /** Which of the URLs it is. */
      url: string;
      server: string;
      /** The token's, or empty. */
      subject: string;
      partitions: number;
      /** 0: never. Told anew (another `open`) when the token was replaced. */
      tokenExpiresUs: number;
      /** Whether the token allows commands, as far as is known. */
      mayCommand: boolean;
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
  /** How long the oldest frame of the last acknowledgement had been here, milliseconds: handling, and waiting for the others. */
  ackDelayMs: number | null;
  /** Of a ping, milliseconds; null: not measured yet. An acknowledgement's, as the server sees it, is this and `ackDelayMs`. */
  roundTripMs: number | null;
  /** The server's clock minus this one's, milliseconds, from the quickest of the last pings; null: not yet. */
  clockOffsetMs: number | null;
  /** permessage-deflate was agreed. */
  compressed: boolean;
  /** Connections made since `connect`. */
  connections: number;
  /** Frames since `connect` that show less than what went into them; and gaps. */
  conflated: number;
  gaps: number;
  /** How late the last live frames were when they came, by the server's clock; null: none came yet. */
  latency: {
    /** From a frame's newest reading. Batches that were late when the relay got them (a backlog that drains) do not count. */
    sampleMs: Quantiles | null;
    /** From the moment the bridge took a batch in; mode `all` only. */
    arrivalMs: Quantiles | null;
  };
}

/** What `on` listens to. */
export interface Events {
  status: Status;
  /** Something could not be delivered to this subscription. */
  gap: { subscription: Subscription; gap: Gap };
  /** A frame that shows less than what went into it. */
  conflated: { subscription: Subscription; conflation: Conflation };
  /** The server says why it is about to close. */
  goodbye: { reason: string; retryAfterMs: number };
  /** Once a second while open. */
  stats: Stats;
  /** A request the server refused, a frame that could not be read, a handler that threw, a token that could not be had. The connection goes on. */
  error: { subscription: Subscription | null; error: Error };
}
