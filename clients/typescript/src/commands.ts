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
  options: CommandOptions;
  /** When it expires, by `performance.now()`. */
  deadline: number;
  /** As it was first sent; null: it was not. */
  bytes: Uint8Array<ArrayBuffer> | null;
  timer: ReturnType<typeof setTimeout> | undefined;
  retry: ReturnType<typeof setTimeout> | undefined;
  resolve: (reply: Reply) => void;
  reject: (error: unknown) => void;
  abort: () => void;
}

export class Commands {
  private readonly pending = new Map<string, Pending>();
  private readonly transmit: (bytes: Uint8Array<ArrayBuffer>) => void;
  /** The relay's clock, milliseconds since the Unix epoch. */
  private readonly now: () => number;
  private there = false;
  private allowed = true;

  constructor(transmit: (bytes: Uint8Array<ArrayBuffer>) => void, now: () => number) {
    this.transmit = transmit;
    this.now = now;
  }

  issue(options: CommandOptions): Promise<Reply> {
    const { device, expiresInMs = 30_000, signal, id = randomId() } = options;
    return new Promise((resolve, reject) => {
      if (signal?.aborted) throw signal.reason;
      if (this.pending.has(id)) throw new RangeError(`a command ${JSON.stringify(id)} is under way already`);
      const full = `${MOST} commands wait for their replies already`;
      if (this.pending.size >= MOST) throw new CommandError("limit", { id, device }, full);
      const pending: Pending = {
        id,
        device,
        options,
        deadline: performance.now() + expiresInMs,
        bytes: null,
        timer: undefined,
        retry: undefined,
        resolve,
        reject,
        abort: () => this.take(id)?.reject(signal?.reason),
      };
      signal?.addEventListener("abort", pending.abort);
      pending.timer = setTimeout(() => this.expired(pending), Math.min(LONGEST_MS, expiresInMs));
      this.pending.set(id, pending);
      if (this.there) this.send(pending);
    });
  }

  /** A connection is there: what has no reply yet is sent, maybe again. `allowed`: as far as is known. */
  connected(allowed: boolean): void {
    this.there = true;
    this.allowed = allowed;
    for (const pending of [...this.pending.values()]) this.send(pending);
  }

  /** It is gone: what is issued waits for the next one. */
  disconnected(): void {
    this.there = false;
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
      pending.retry = setTimeout(() => this.there && this.send(pending), RETRY_MS * (1 + Math.random()));
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

  private send(pending: Pending): void {
    const { id, device, deadline, options } = pending;
    const leftMs = deadline - performance.now();
    if (!this.allowed) {
      this.fail(id, "forbidden", "the token does not allow commands");
    } else if (leftMs > 0) {
      // By the relay's clock, which is known now; the same bytes from then on.
      const expiresUs = Math.round((this.now() + leftMs) * 1000);
      pending.bytes ??= command({
        id,
        device,
        name: options.name,
        arguments: options.arguments ?? [],
        expiresUs,
      });
      this.transmit(pending.bytes);
    }
  }

  private expired(pending: Pending): void {
    const { id, device, bytes, options } = pending;
    if (bytes === null) {
      this.fail(id, "expired", "there was no connection to send it on");
      return;
    }
    const unknown = `no reply from ${device}: whether it carried ${options.name} out is not known`;
    pending.timer = setTimeout(() => this.fail(id, "no reply", unknown), GRACE_MS);
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
    pending.options.signal?.removeEventListener("abort", pending.abort);
    return pending;
  }
}

/** 128 random bits. `crypto.randomUUID` is missing on pages without TLS. */
function randomId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
