/** Commands under way: each is sent under one id, again after every reconnect, until its reply is there or it has expired. */

import type { ReplyFrame, ServerError } from "./control.js";
import { CommandError, type CommandFailure } from "./errors.js";
import { command } from "./request.js";

/** What a device is to do. */
export interface CommandOptions {
  device: string;
  name: string;
  arguments?: readonly string[];
  /** It is not carried out later than this, milliseconds from now. Default 30,000. */
  expiresInMs?: number;
  /** Stops waiting for the reply; the command itself is not called back. */
  signal?: AbortSignal;
  /** To repeat an earlier command, say after the page was loaded anew: under its id it is carried out once. Default: a random one. */
  id?: string;
}

/** What a device answered. */
export interface Reply {
  id: string;
  device: string;
  /** `failed`: the device tried, and `output` says what went wrong. */
  status: "ok" | "failed";
  /** The command's output, or text for a person. */
  output: string;
  /** When the device answered, microseconds since the Unix epoch. */
  repliedUs: number;
}

/** How long after its end a command's reply may still arrive, milliseconds. */
const GRACE_MS = 5000;
/** After "unavailable" it is sent again, milliseconds; up to as much again is added. */
const RETRY_MS = 1000;
/** Commands without a reply; more are refused. */
const MOST = 1000;
/** What a timer can count. */
const LONGEST_MS = 2 ** 31 - 1;

interface Pending {
  id: string;
  device: string;
  bytes: Uint8Array<ArrayBuffer>;
  timer: ReturnType<typeof setTimeout>;
  retry: ReturnType<typeof setTimeout> | undefined;
  resolve: (reply: Reply) => void;
  reject: (error: unknown) => void;
  release: () => void;
}

export class Commands {
  private readonly pending = new Map<string, Pending>();
  private readonly send: (bytes: Uint8Array<ArrayBuffer>) => void;
  /** The relay's clock, milliseconds since the Unix epoch. */
  private readonly now: () => number;
  private allowed = true;

  /** `send` drops what it is given while there is no connection. */
  constructor(send: (bytes: Uint8Array<ArrayBuffer>) => void, now: () => number) {
    this.send = send;
    this.now = now;
  }

  issue(options: CommandOptions): Promise<Reply> {
    const { device, name, expiresInMs = 30_000, signal, id = randomId() } = options;
    return new Promise((resolve, reject) => {
      if (signal?.aborted) throw signal.reason;
      if (this.pending.has(id)) throw new RangeError(`a command ${JSON.stringify(id)} is under way already`);
      const fail = (reason: CommandFailure, why: string) => {
        throw new CommandError(reason, { id, device }, why);
      };
      if (this.pending.size >= MOST) fail("limit", `${MOST} commands wait for their replies already`);
      if (!this.allowed) fail("forbidden", FORBIDDEN);
      const expiresUs = Math.round((this.now() + expiresInMs) * 1000);
      const bytes = command({ id, device, name, arguments: options.arguments ?? [], expiresUs });
      const abort = () => this.take(id)?.reject(signal?.reason);
      signal?.addEventListener("abort", abort);
      const late = () =>
        this.fail(id, "no reply", `no reply from ${device}: whether it carried ${name} out is not known`);
      this.pending.set(id, {
        id,
        device,
        bytes,
        timer: setTimeout(late, Math.min(LONGEST_MS, expiresInMs + GRACE_MS)),
        retry: undefined,
        resolve,
        reject,
        release: () => signal?.removeEventListener("abort", abort),
      });
      this.send(bytes);
    });
  }

  /** A connection is there: what has no reply yet is sent, maybe again. `allowed`: as far as is known. */
  connected(allowed: boolean): void {
    this.allowed = allowed;
    for (const { id, bytes } of [...this.pending.values()]) {
      if (allowed) this.send(bytes);
      else this.fail(id, "forbidden", FORBIDDEN);
    }
  }

  /** The token was replaced, maybe by one that allows more. */
  allow(): void {
    this.allowed = true;
  }

  replied(frame: ReplyFrame): void {
    const { id, device, status, output, repliedUs } = frame;
    if (status === "ok" || status === "failed") {
      this.take(id)?.resolve({ id, device, status, output, repliedUs });
    } else {
      this.fail(id, status, output);
    }
  }

  /** False: it is about no command of ours. */
  refused({ command, code, message }: ServerError): boolean {
    const pending = this.pending.get(command);
    if (!pending) return false;
    if (code === "unavailable") {
      // Whether it arrived is not known; under its id it may be sent again.
      clearTimeout(pending.retry);
      pending.retry = setTimeout(() => this.send(pending.bytes), RETRY_MS * (1 + Math.random()));
    } else {
      this.fail(command, code, message);
    }
    return true;
  }

  close(): void {
    for (const { id, device } of [...this.pending.values()]) {
      this.fail(id, "closed", `the connection was closed: whether ${device} carried it out is not known`);
    }
  }

  private fail(id: string, reason: CommandFailure, why: string): void {
    const pending = this.take(id);
    pending?.reject(new CommandError(reason, pending, why));
  }

  private take(id: string): Pending | undefined {
    const pending = this.pending.get(id);
    if (!pending) return undefined;
    this.pending.delete(id);
    clearTimeout(pending.timer);
    clearTimeout(pending.retry);
    pending.release();
    return pending;
  }
}

const FORBIDDEN = "the token does not allow commands";

/** 128 random bits. `crypto.randomUUID` is missing on pages without TLS. */
function randomId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
