/** The window of one connection: what came in, what is handled, when to say so. Time is an argument. */

/** A number of counted frames and of their bytes. */
export interface Amount {
  frames: number;
  bytes: number;
}

/** How long a handled frame may wait for its acknowledgement, milliseconds. */
export const ACK_AFTER_MS = 50;

export class AckWindow {
  /** What the server may have unacknowledged. */
  size: Amount;
  readonly received: Amount = { frames: 0, bytes: 0 };
  readonly handled: Amount = { frames: 0, bytes: 0 };
  readonly acked: Amount = { frames: 0, bytes: 0 };
  /** When the oldest handled and not acknowledged frame was handled. */
  private since = 0;

  constructor(size: Amount) {
    this.size = size;
  }

  receive(bytes: number): void {
    this.received.frames += 1;
    this.received.bytes += bytes;
  }

  handle(bytes: number, nowMs: number): void {
    if (this.handled.frames === this.acked.frames) this.since = nowMs;
    this.handled.frames += 1;
    this.handled.bytes += bytes;
  }

  /** Milliseconds until an acknowledgement is due; 0: now; null: nothing to acknowledge. */
  dueIn(nowMs: number): number | null {
    const frames = this.handled.frames - this.acked.frames;
    if (frames === 0) return null;
    const bytes = this.handled.bytes - this.acked.bytes;
    if (frames * 2 >= this.size.frames || bytes * 2 >= this.size.bytes) return 0;
    return Math.max(0, this.since + ACK_AFTER_MS - nowMs);
  }

  /** Everything handled counts as acknowledged from now on; the totals to send. */
  take(): Amount {
    this.acked.frames = this.handled.frames;
    this.acked.bytes = this.handled.bytes;
    return { ...this.acked };
  }

  /** What the server counts as on its way: received and not acknowledged. */
  unacked(): Amount {
    return {
      frames: this.received.frames - this.acked.frames,
      bytes: this.received.bytes - this.acked.bytes,
    };
  }
}
