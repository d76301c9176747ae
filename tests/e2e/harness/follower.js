import WebSocket from "ws";
import { Live } from "./live.js";

/**
 * A subscription that outlives its connections: it goes on at whatever gateway with the cursor that the frames told, as live.proto describes
 * it. What came is in `snapshot` and `batches` (ALL) and `series` (SERIES).
 */
export class Follower {
  /** partition → the next offset. */
  cursor = new Map();
  batches = [];
  /** Where it began: partition → offset. */
  began = new Map();
  /** Batches of newest values, a device each: what it began with. */
  snapshot = [];
  /** "device metric" → { count, min, max, last, lastUs }, all buckets joined. */
  series = new Map();
  gaps = [];
  goodbyes = [];
  caughtUp = 0;

  constructor(site, subscribe) {
    Object.assign(this, { site, subscribe });
  }

  /** Goes on at this gateway; returns once it has answered. */
  async follow(relay, window = { frames: 64, bytes: 1n << 20n }) {
    this.live = await Live.open(this.site, relay.live, { hello: { window } });
    this.live.onFrame = (frame) => this.#take(frame);
    const positions = [...this.cursor].map(([partition, offset]) => ({ partition, offset }));
    const start = positions.length > 0 ? { case: "cursor", value: { positions } } : this.subscribe.start?.at;
    this.live.subscribe({ ...this.subscribe, start });
    await this.live.next("subscribed");
  }

  /** As a client that is killed: nothing is said. */
  breakOff() {
    this.live.onFrame = undefined;
    this.live.socket.terminate();
  }

  get open() {
    return this.live.socket.readyState === WebSocket.OPEN;
  }

  of(device) {
    return this.batches.filter((batch) => batch.device === device);
  }

  #move(cursor) {
    for (const { partition, offset } of cursor?.positions ?? []) this.cursor.set(partition, offset);
  }

  #take(frame) {
    const { case: kind, value } = frame;
    if (kind === "subscribed") {
      this.#move(value.cursor);
      if (this.began.size === 0) this.began = new Map(this.cursor);
    }
    if (kind === "caughtUp") {
      this.caughtUp += 1;
      this.#move(value.cursor);
    }
    if (kind === "goodbye") {
      this.goodbyes.push(value);
      for (const { id, cursor } of value.cursors) if (id === this.subscribe.id) this.#move(cursor);
    }
    if (kind === "gap") {
      this.gaps.push(value);
      this.cursor.set(value.partition, value.toOffset);
    }
    if (kind === "latest") {
      const after = this.batches.length;
      for (const batch of value.decoded) this.snapshot.push({ ...batch, marked: value.snapshot, after });
    }
    if (kind === "data") {
      const { partition, offset, decoded } = value;
      this.batches.push({ ...decoded, partition, offset: Number(offset) });
      this.cursor.set(value.partition, value.offset + 1n);
    }
    if (kind === "series") {
      for (const column of value.columns) this.#join(column);
      this.#move(value.cursor);
    }
  }

  #join({ device, metric, startUs, bucketUs, bucket, min, max, last, count, lastUs }) {
    const name = `${device} ${metric}`;
    for (const [index, number] of bucket.entries()) {
      const at = startUs + BigInt(number) * bucketUs + lastUs[index];
      const known = this.series.get(name);
      if (!known) {
        const [least, greatest] = [min[index], max[index]];
        this.series.set(name, {
          count: count[index],
          min: least,
          max: greatest,
          last: last[index],
          lastUs: at,
        });
        continue;
      }
      known.count += count[index];
      known.min = Math.min(known.min, min[index]);
      known.max = Math.max(known.max, max[index]);
      if (at >= known.lastUs) Object.assign(known, { last: last[index], lastUs: at });
    }
  }
}
