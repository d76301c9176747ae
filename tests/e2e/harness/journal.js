import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

/**
 * What an agent's journal holds on flash, read by code of its own, after the layout at the top of agent/src/journal/format.rs:
 * stream (16 hex digits) → its batches' and losses' last numbers, as a sorted array.
 */
export function durable(directory) {
  const streams = new Map();
  for (const name of segments(directory)) {
    let bytes;
    try {
      bytes = readFileSync(join(directory, name));
    } catch (error) {
      // Emptied and unlinked since it was listed.
      if (error.code === "ENOENT") continue;
      throw error;
    }
    for (const { stream, through } of records(bytes, BigInt(`0x${name.slice(0, 16)}`))) {
      streams.set(stream, [...(streams.get(stream) ?? []), through]);
    }
  }
  for (const numbers of streams.values()) numbers.sort((a, b) => a - b);
  return streams;
}

function segments(directory) {
  try {
    return readdirSync(directory).filter((name) => /^[0-9a-f]{16}\.segment$/.test(name));
  } catch (error) {
    if (error.code === "ENOENT") return [];
    throw error;
  }
}

const BLOCK = 4096;

function* records(bytes, segment) {
  let at = 0;
  while (at < bytes.length) {
    if (bytes[at] === 0) {
      // Zeros fill up a block; a block of zeros was never written.
      const next = (Math.floor(at / BLOCK) + 1) * BLOCK;
      if (at % BLOCK === 0) return;
      at = next;
      continue;
    }
    const [length, content] = number(bytes, at);
    const end = content + 4 + length;
    const place = Buffer.alloc(16);
    place.writeBigUInt64LE(segment, 0);
    place.writeBigUInt64LE(BigInt(at), 8);
    const record = bytes.subarray(content + 4, end);
    // Torn: the write that the kill interrupted.
    if (end > bytes.length || bytes.readUInt32LE(content) !== crc32c(place, record)) return;
    const [kind, body] = [record[0], record.subarray(1)];
    if (kind === 3 || kind === 4) {
      const stream = body.readBigUInt64LE(0).toString(16).padStart(16, "0");
      const [seq, after] = number(body, 8);
      yield { stream, through: kind === 3 ? seq : number(body, after)[0] };
    }
    at = end;
  }
}

/** The LEB128 number at `at`, and where it ends. */
function number(bytes, at) {
  let [value, scale] = [0, 1];
  for (;;) {
    const byte = bytes[at++];
    value += (byte & 0x7f) * scale;
    if (byte < 0x80) return [value, at];
    scale *= 128;
  }
}

const table = Array.from({ length: 256 }, (_, index) => {
  let value = index;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0x82f63b78 : value >>> 1;
  return value >>> 0;
});

/** CRC-32C of all parts. */
export function crc32c(...parts) {
  let sum = 0xffffffff;
  for (const part of parts) for (const byte of part) sum = table[(sum ^ byte) & 0xff] ^ (sum >>> 8);
  return (sum ^ 0xffffffff) >>> 0;
}
