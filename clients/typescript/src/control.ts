/** The frames beside the stream: what the relay answers, tells and refuses. They are not counted. live.proto is the contract. */

import { type Cursor, readCursor } from "./cursor.js";
import { BOOL, INT, many, message, NUMBER32, one, TEXT, UINT, words } from "./message.js";
import type { Amount } from "./window.js";

const readAmount = message<Amount>(() => ({ frames: 0, bytes: 0 }), {
  1: ["frames", UINT],
  2: ["bytes", UINT],
});

export interface Welcome {
  case: "welcome";
  server: string;
  /** Null: what the client asked for. */
  window: Amount | null;
  partitions: number;
  timeUs: number;
  /** 0: never. */
  tokenExpiresUs: number;
  subject: string;
  mayCommand: boolean;
}

export const readWelcome = message<Welcome>(
  () => ({
    case: "welcome",
    server: "",
    window: null,
    partitions: 0,
    timeUs: 0,
    tokenExpiresUs: 0,
    subject: "",
    mayCommand: false,
  }),
  {
    1: ["server", TEXT],
    2: ["window", one(readAmount)],
    3: ["partitions", UINT],
    4: ["timeUs", INT],
    5: ["tokenExpiresUs", INT],
    6: ["subject", TEXT],
    7: ["mayCommand", BOOL],
  },
);

export interface Subscribed {
  case: "subscribed";
  id: number;
  filter: number;
  cursor: Cursor;
}

export const readSubscribed = message<Subscribed>(
  () => ({ case: "subscribed", id: 0, filter: 0, cursor: {} }),
  {
    1: ["id", UINT],
    2: ["filter", NUMBER32],
    3: ["cursor", one(readCursor)],
  },
);

export interface CaughtUp {
  case: "caughtUp";
  id: number;
  cursor: Cursor;
}

export const readCaughtUp = message<CaughtUp>(() => ({ case: "caughtUp", id: 0, cursor: {} }), {
  1: ["id", UINT],
  2: ["cursor", one(readCursor)],
});

export interface ServerError {
  case: "error";
  /** The subscription's, or 0. */
  id: number;
  code: Refusal;
  message: string;
  /** The command's id, or empty. */
  command: string;
}

/** Why a relay refuses a request. */
export type Refusal = "unspecified" | "bad request" | "forbidden" | "limit" | "unsupported" | "unavailable";

export const readError = message<ServerError>(
  () => ({ case: "error", id: 0, code: "unspecified", message: "", command: "" }),
  {
    1: ["id", UINT],
    2: [
      "code",
      words<Refusal>(["unspecified", "bad request", "forbidden", "limit", "unsupported", "unavailable"]),
    ],
    3: ["message", TEXT],
    4: ["command", TEXT],
  },
);

/** What became of a command: `ok` and `failed` were carried out, the others were not. */
export type ReplyStatus =
  | "unspecified"
  | "ok"
  | "failed"
  | "expired"
  | "unknown device"
  | "unknown command"
  | "refused";

export interface ReplyFrame {
  case: "reply";
  id: string;
  device: string;
  status: ReplyStatus;
  output: string;
  repliedUs: number;
}

export const readReply = message<ReplyFrame>(
  () => ({ case: "reply", id: "", device: "", status: "unspecified", output: "", repliedUs: 0 }),
  {
    1: ["id", TEXT],
    2: ["device", TEXT],
    3: [
      "status",
      words<ReplyStatus>([
        "unspecified",
        "ok",
        "failed",
        "expired",
        "unknown device",
        "unknown command",
        "refused",
      ]),
    ],
    4: ["output", TEXT],
    5: ["repliedUs", INT],
  },
);

export interface Goodbye {
  case: "goodbye";
  reason: string;
  retryAfterMs: number;
  /** Where subscriptions stand: all before it was in frames before this one. */
  cursors: { id: number; cursor: Cursor }[];
}

const readPlace = message<Goodbye["cursors"][number]>(() => ({ id: 0, cursor: {} }), {
  1: ["id", UINT],
  2: ["cursor", one(readCursor)],
});

export const readGoodbye = message<Goodbye>(
  () => ({ case: "goodbye", reason: "", retryAfterMs: 0, cursors: [] }),
  { 1: ["reason", TEXT], 2: ["retryAfterMs", UINT], 3: ["cursors", many(readPlace)] },
);

export interface Pong {
  case: "pong";
  nonce: number;
  timeUs: number;
  /** 0: not counted. */
  wireBytes: number;
}

export const readPong = message<Pong>(() => ({ case: "pong", nonce: 0, timeUs: 0, wireBytes: 0 }), {
  1: ["nonce", UINT],
  2: ["timeUs", INT],
  3: ["wireBytes", UINT],
});

export interface TokenAccepted {
  case: "tokenAccepted";
  tokenExpiresUs: number;
}

export const readTokenAccepted = message<TokenAccepted>(
  () => ({ case: "tokenAccepted", tokenExpiresUs: 0 }),
  {
    1: ["tokenExpiresUs", INT],
  },
);

export interface Coming {
  case: "coming";
  /** Of the next message. */
  bytes: number;
}

export const readComing = message<Coming>(() => ({ case: "coming", bytes: 0 }), { 1: ["bytes", UINT] });
