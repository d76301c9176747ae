/**
 * A disk with a cache that a power cut empties, for qemu: an NBD server (the NBD protocol, doc/proto.md, fixed newstyle) on a Unix socket.
 *
 * Killing qemu alone would lose nothing: what the guest has written is the host's by then. Here a write is answered when it is in the
 * cache, and on the medium once a FLUSH that came after it, or its own FUA, is answered: no sooner. When the power is cut, of what is in
 * the cache each write is taken or left out by lot, whatever their order, and some are torn: of their sectors of 512 bytes each is
 * old or new. The first block is never torn: ext4 itself takes it that its superblock is written as one.
 */

import { readFile, writeFile } from "node:fs/promises";
import { createServer } from "node:net";

const SECTOR = 512;
const BLOCK = 4096;
const [READ, WRITE, DISCONNECT, FLUSH, TRIM, ZEROES] = [0, 1, 2, 3, 4, 6];
const FUA = 1;
const EINVAL = 22;
/** NBD_FLAG_HAS_FLAGS, SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_WRITE_ZEROES. */
const ABILITIES = 1 | 4 | 8 | 32 | 64;
const REPLY_MAGIC = 0x3e889045565a9n;

export class Disk {
  /** What was done since the machine was last switched on. */
  done = { writes: 0, flushes: 0, bytes: 0 };
  /** Since the last flush, in the order in which they came: [where, bytes]. */
  cache = [];
  on = false;

  /** `path`: of the socket. `image`: the file that is the medium; read when the machine is switched on, written when it is off again. */
  static async serve(site, path, image) {
    const disk = new Disk(image);
    disk.path = path;
    const server = createServer((socket) => disk.#accept(socket));
    await new Promise((resolve) => server.listen(disk.path, resolve));
    site.onClose(() => {
      for (const socket of disk.sockets) socket.destroy();
      return new Promise((resolve) => server.close(resolve));
    });
    return disk;
  }

  sockets = new Set();

  constructor(image) {
    this.image = image;
  }

  async powerOn() {
    this.medium = await readFile(this.image);
    this.seen = Buffer.from(this.medium);
    this.cache = [];
    this.done = { writes: 0, flushes: 0, bytes: 0 };
    this.on = true;
    this.trigger = undefined;
  }

  /**
   * Resolves when a write or flush comes for which `moment({ flush, bytes, done, cached })` is true: from then on the disk is off, and
   * that request was neither carried out nor answered. `cached`: writes that the flush would put on the medium.
   */
  cutAt(moment) {
    return new Promise((resolve) => {
      this.trigger = { moment, resolve };
    });
  }

  /** No request is answered any more. */
  stop() {
    this.on = false;
    this.trigger = undefined;
  }

  /**
   * What is left, in the image: `random` draws from [0, 1), `mode` is "none", "all" or "some" of the cache. Returns how many
   * writes the cache held, how many of them are lost, and how many torn: some of their sectors are there, and some are not.
   */
  async powerOff(random, mode) {
    this.stop();
    // What the machine that is no more has sent is of no concern to the next.
    for (const socket of this.sockets) socket.destroy();
    const cut = { cached: this.cache.length, lost: 0, torn: 0 };
    for (const [offset, bytes] of this.cache) {
      if (mode === "all" || (mode === "some" && random() < 0.5)) {
        bytes.copy(this.medium, offset);
        continue;
      }
      const tears = mode === "some" && random() < 0.5;
      let [taken, sectors] = [0, 0];
      for (let at = 0; at < bytes.length; at += SECTOR, sectors++) {
        if (!tears || offset + at < BLOCK || random() < 0.5) continue;
        bytes.copy(this.medium, offset + at, at, at + SECTOR);
        taken++;
      }
      if (taken > 0 && taken < sectors) cut.torn++;
      else if (taken === 0) cut.lost++;
    }
    this.cache = [];
    await writeFile(this.image, this.medium);
    return cut;
  }

  #accept(socket) {
    this.sockets.add(socket);
    socket.on("close", () => this.sockets.delete(socket)).on("error", () => {});
    const greeting = Buffer.alloc(18);
    greeting.write("NBDMAGICIHAVEOPT");
    greeting.writeUInt16BE(3, 16);
    socket.write(greeting);
    const line = this.#serve(socket);
    line.next();
    let pending = Buffer.alloc(0);
    let wanted = line.next().value;
    socket.on("data", (bytes) => {
      pending = pending.length === 0 ? bytes : Buffer.concat([pending, bytes]);
      while (!socket.destroyed && wanted !== undefined && pending.length >= wanted) {
        const piece = pending.subarray(0, wanted);
        pending = pending.subarray(wanted);
        wanted = line.next(piece).value;
      }
    });
  }

  /** One connection: yields how many bytes it needs next, and gets them. */
  *#serve(socket) {
    yield;
    yield 4;
    for (;;) {
      const head = yield 16;
      const option = head.readUInt32BE(8);
      const length = head.readUInt32BE(12);
      if (length > 0) yield length;
      const answer = (type, data = Buffer.alloc(0)) => {
        const reply = Buffer.alloc(20);
        reply.writeBigUInt64BE(REPLY_MAGIC);
        reply.writeUInt32BE(option, 8);
        reply.writeUInt32BE(type, 12);
        reply.writeUInt32BE(data.length, 16);
        socket.write(Buffer.concat([reply, data]));
      };
      if (option === 2) {
        answer(1);
        socket.end();
        return;
      }
      if (option !== 7) {
        answer(0x80000001);
        continue;
      }
      // NBD_OPT_GO: NBD_INFO_EXPORT with the size, and done.
      const info = Buffer.alloc(12);
      info.writeBigUInt64BE(BigInt(this.medium.length), 2);
      info.writeUInt16BE(ABILITIES, 10);
      answer(3, info);
      answer(1);
      break;
    }
    for (;;) {
      const head = yield 28;
      const [flags, type] = [head.readUInt16BE(4), head.readUInt16BE(6)];
      const cookie = Buffer.from(head.subarray(8, 16));
      const offset = Number(head.readBigUInt64BE(16));
      const length = head.readUInt32BE(24);
      const bytes = type === WRITE ? Buffer.from(yield length) : undefined;
      if (type === DISCONNECT) {
        socket.end();
        return;
      }
      const [error, data] = this.#carryOut(type, flags, offset, length, bytes);
      if (!this.on) continue;
      const reply = Buffer.alloc(16);
      reply.writeUInt32BE(0x67446698);
      reply.writeUInt32BE(error, 4);
      cookie.copy(reply, 8);
      socket.write(data ? Buffer.concat([reply, data]) : reply);
    }
  }

  #carryOut(type, flags, offset, length, bytes) {
    if (!this.on) return [0];
    const asked = { flush: type === FLUSH, bytes, done: this.done, cached: this.cache.length };
    if (type !== READ && this.trigger?.moment(asked)) {
      const { resolve } = this.trigger;
      this.stop();
      resolve();
      return [0];
    }
    if (offset + length > this.seen.length) return [EINVAL];
    switch (type) {
      case READ:
        return [0, Buffer.from(this.seen.subarray(offset, offset + length))];
      case WRITE:
      case ZEROES:
        this.#write(offset, bytes ?? Buffer.alloc(length), (flags & FUA) !== 0);
        return [0];
      case FLUSH:
        for (const [at, cached] of this.cache) cached.copy(this.medium, at);
        this.cache = [];
        this.done.flushes++;
        return [0];
      case TRIM:
        return [0];
      default:
        return [EINVAL];
    }
  }

  #write(offset, bytes, through) {
    bytes.copy(this.seen, offset);
    if (through) {
      // What is older in the cache, at the same place, may not come back over it.
      this.cache = this.cache.filter(([at, cached]) => {
        const apart = at + cached.length <= offset || offset + bytes.length <= at;
        if (!apart) cached.copy(this.medium, at);
        return apart;
      });
      bytes.copy(this.medium, offset);
    } else {
      this.cache.push([offset, bytes]);
    }
    this.done.writes++;
    this.done.bytes += bytes.length;
  }
}
