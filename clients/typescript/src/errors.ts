/** Why a connection ended, and whether trying again can help; why a request was refused. */

import type { Refusal } from "./control.js";

/** What to do after a connection ended. */
export type Remedy = "reconnect" | "token" | "stop";

/** The end of a connection, in words for a person. */
export class ConnectionError extends Error {
  override readonly name = "ConnectionError";
  /** The WebSocket close code; 1006 when there was none. */
  readonly code: number;
  readonly remedy: Remedy;

  constructor(code: number, reason = "") {
    const [text, remedy] = CODES[code] ?? [`the connection ended with code ${code}`, "reconnect"];
    super(reason && reason !== text ? `${text}: ${reason}` : text);
    this.code = code;
    this.remedy = remedy;
  }
}

const CODES: Record<number, [string, Remedy]> = {
  1000: ["the relay closed the connection", "reconnect"],
  1001: ["the relay is going away", "reconnect"],
  1002: ["WebSocket protocol error", "reconnect"],
  1003: ["the relay takes binary frames only", "stop"],
  1006: ["the relay cannot be reached, or the connection broke", "reconnect"],
  1007: ["compressed data could not be read", "reconnect"],
  1009: ["a message was too big for the relay", "stop"],
  1011: ["the relay failed", "reconnect"],
  1012: ["the relay restarts", "reconnect"],
  1013: ["the relay is busy", "reconnect"],
  4400: ["the relay could not understand this client; are their versions compatible?", "stop"],
  4401: ["the token is missing, invalid or expired", "token"],
  4403: ["the token does not allow this", "stop"],
  4408: ["the relay waited too long for an answer", "reconnect"],
  4409: ["acknowledged what was never sent", "reconnect"],
  4429: ["over a limit of the relay", "reconnect"],
};

/** A connection that no message came through for too long. */
export function staleError(silentMs: number): ConnectionError {
  return new ConnectionError(1006, `no answer for ${Math.round(silentMs / 1000)} s`);
}

/** A request that the relay refused; the connection goes on. */
export class RefusedError extends Error {
  override readonly name = "RefusedError";
  readonly code: Refusal;

  constructor(code: Refusal, message: string) {
    super(message);
    this.code = code;
  }
}

/** Why there is no reply of a device. */
export type CommandFailure =
  /** The relay or the device refused it: it was not carried out. */
  | Refusal
  | "expired"
  | "unknown device"
  | "unknown command"
  | "refused"
  /** No reply came in time: whether it was carried out is not known. */
  | "no reply"
  /** The connection was closed for good: whether it was carried out is not known. */
  | "closed";

/** A command that was not carried out, or of which that is not known: `reason` says which. */
export class CommandError extends Error {
  override readonly name = "CommandError";
  readonly reason: CommandFailure;
  /** Sent again under this id, it is carried out once. */
  readonly id: string;
  readonly device: string;

  constructor(reason: CommandFailure, { id, device }: { id: string; device: string }, message: string) {
    super(message || reason);
    this.reason = reason;
    this.id = id;
    this.device = device;
  }
}
