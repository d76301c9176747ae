/**
 * A bounds-checked reader of protobuf's wire format over one byte array.
 *
 * Integers come out as doubles where they are exact and as bigint where asked for; no BigInt is made on the hot path.
 */

/** What a message could not be read for: which part, at which byte, and why. */
export class DecodeError extends Error {
  override readonly name = "DecodeError";
  /** Where in the input, in bytes from its start. */
  readonly at: number;

  constructor(what: string, at: number) {
    super(`${what} (at byte ${at})`);
    this.at = at;
  }
}

/** Wire types of protobuf that a reader may meet. */
export const VARINT = 0;
export const FIXED64 = 1;
export const BYTES = 2;
export const FIXED32 = 5;

const LITTLE_ENDIAN = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Bytes `start` to `end` of `bytes`, read from `pos` on. */
export class Reader {
  readonly bytes: Uint8Array;
  pos: number;
  end: number;

  constructor(bytes: Uint8Array, start = 0, end = bytes.length) {
    this.bytes = bytes;
    this.pos = start;
    this.end = end;
  }

  /** A reader of the next length-delimited field's content; this one goes on behind it. */
  message(): Reader {
    const length = this.length();
    const inner = new Reader(this.bytes, this.pos, this.pos + length);
    this.pos += length;
    return inner;
  }

  /** Made where it is needed: most messages have no number of fixed width. */
  private get view(): DataView {
    const { buffer, byteOffset, byteLength } = this.bytes;
    return new DataView(buffer, byteOffset, byteLength);
  }

  more(): boolean {
    return this.pos < this.end;
  }

  /** The next field's number and wire type as they stand: number × 8 + type. */
  tag(): number {
    const at = this.pos;
    const tag = this.uint();
    if (tag > 0xffffffff || tag < 8) throw new DecodeError("a field number out of range", at);
    return tag;
  }

  /** An unsigned varint as a double: exact up to 2^53, the nearest double above. */
  uint(): number {
    const { bytes, end } = this;
    let pos = this.pos;
    let value = 0;
    let unit = 1;
    // Seven bytes hold 49 bits: exact whatever they are.
    for (let i = 0; i < 7; i++) {
      if (pos >= end) throw new DecodeError("a number is cut off", pos);
      const byte = bytes[pos++];
      value += (byte & 0x7f) * unit;
      if (byte < 0x80) {
        this.pos = pos;
        return value;
      }
      unit *= 128;
    }
    return Number(this.uint64());
  }

  /** An unsigned varint of 64 bits. */
  uint64(): bigint {
    const { bytes, end, pos: start } = this;
    let pos = start;
    let value = 0n;
    for (let shift = 0n; shift < 70n; shift += 7n) {
      if (pos >= end) throw new DecodeError("a number is cut off", pos);
      const byte = bytes[pos++];
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) {
        this.pos = pos;
        return BigInt.asUintN(64, value);
      }
    }
    throw new DecodeError("a number of more than ten bytes", start);
  }

  /** A zigzag varint of 64 bits. */
  sint64(): bigint {
    const value = this.uint64();
    return (value >> 1n) ^ -(value & 1n);
  }

  /** An int64 as a double (nearest, beyond 2^53). */
  int(): number {
    const at = this.pos;
    const value = this.uint();
    if (value < 2 ** 53) return value;
    this.pos = at;
    return Number(BigInt.asIntN(64, this.uint64()));
  }

  fixed32(): number {
    this.need(4);
    const value = this.view.getUint32(this.pos, true);
    this.pos += 4;
    return value;
  }

  fixed64(): bigint {
    this.need(8);
    const value = this.view.getBigUint64(this.pos, true);
    this.pos += 8;
    return value;
  }

  double(): number {
    this.need(8);
    const value = this.view.getFloat64(this.pos, true);
    this.pos += 8;
    return value;
  }

  /** The length of a length-delimited field, checked against what is left. */
  length(): number {
    const at = this.pos;
    const length = this.uint();
    if (length > this.end - this.pos) {
      throw new DecodeError(`a field of ${length} bytes where ${this.end - this.pos} are left`, at);
    }
    return length;
  }

  /** The content of a length-delimited field, as a view on the input. */
  slice(): Uint8Array {
    const length = this.length();
    this.pos += length;
    return this.bytes.subarray(this.pos - length, this.pos);
  }

  string(): string {
    const length = this.length();
    const { bytes, pos: start } = this;
    this.pos = start + length;
    // Names are short and ASCII: cheaper by hand than a TextDecoder call.
    if (length <= 48) {
      let text = "";
      let i = start;
      for (; i < this.pos && bytes[i] < 0x80; i++) text += String.fromCharCode(bytes[i]);
      if (i === this.pos) return text;
    }
    try {
      return utf8.decode(bytes.subarray(start, this.pos));
    } catch {
      throw new DecodeError("a string that is not UTF-8", start);
    }
  }

  /** Steps over a field of a kind that this reader does not know. */
  skip(tag: number): void {
    switch (tag & 7) {
      case VARINT:
        this.uint64();
        return;
      case FIXED64:
        this.need(8);
        this.pos += 8;
        return;
      case BYTES: {
        const length = this.length();
        this.pos += length;
        return;
      }
      case FIXED32:
        this.need(4);
        this.pos += 4;
        return;
      default:
        throw new DecodeError(`wire type ${tag & 7}, which protobuf 3 does not use`, this.pos);
    }
  }

  private need(count: number): void {
    if (this.end - this.pos < count)
      throw new DecodeError(`${count} bytes where ${this.end - this.pos} are left`, this.pos);
  }
}

/**
 * The bytes of a repeated scalar field. Writers may pack it, leave it unpacked, or send it in several packed
 * pieces; what these have in common is that the elements' bytes follow each other.
 */
export class Packed {
  private pieces: Uint8Array[] = [];

  /** Takes the field that `reader` stands at, of wire type `tag & 7`, whose elements are of type `element`. */
  take(reader: Reader, tag: number, element: number): void {
    if ((tag & 7) === BYTES) {
      this.pieces.push(reader.slice());
    } else if ((tag & 7) === element) {
      const start = reader.pos;
      reader.skip(tag);
      this.pieces.push(reader.bytes.subarray(start, reader.pos));
    } else {
      throw new DecodeError(`field ${tag >>> 3} of wire type ${tag & 7}`, reader.pos);
    }
  }

  bytes(): Uint8Array {
    if (this.pieces.length === 1) return this.pieces[0];
    let length = 0;
    for (const piece of this.pieces) length += piece.length;
    const all = new Uint8Array(length);
    let at = 0;
    for (const piece of this.pieces) {
      all.set(piece, at);
      at += piece.length;
    }
    return all;
  }
}

/** How many varints stand in `bytes`; refuses one that is cut off. */
export function countVarints(bytes: Uint8Array): number {
  let count = 0;
  for (let i = 0; i < bytes.length; i++) count += (bytes[i] >> 7) ^ 1;
  if (bytes.length > 0 && bytes[bytes.length - 1] >= 0x80) {
    throw new DecodeError("a list of numbers is cut off", bytes.byteOffset + bytes.length);
  }
  return count;
}

/** The varints that fill `bytes`. */
export function uints(bytes: Uint8Array): Float64Array<ArrayBuffer> {
  return fill(bytes, new Float64Array(countVarints(bytes)));
}

/** The same where they are of 32 bits. */
export function uints32(bytes: Uint8Array): Uint32Array<ArrayBuffer> {
  return fill(bytes, new Uint32Array(countVarints(bytes)));
}

function fill<A extends Float64Array | Uint32Array>(bytes: Uint8Array, out: A): A {
  const reader = new Reader(bytes);
  for (let i = 0; i < out.length; i++) out[i] = reader.uint();
  return out;
}

/** The little-endian doubles that fill `bytes`, bit for bit; `at` is for the error. */
export function doubles(bytes: Uint8Array, at: number): Float64Array<ArrayBuffer> {
  if (bytes.length % 8 !== 0)
    throw new DecodeError(`${bytes.length} bytes of doubles: not a multiple of 8`, at);
  const out = new Float64Array(bytes.length / 8);
  if (LITTLE_ENDIAN) {
    new Uint8Array(out.buffer).set(bytes);
  } else {
    const bits = new BigUint64Array(out.buffer);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    for (let i = 0; i < out.length; i++) bits[i] = view.getBigUint64(i * 8, true);
  }
  return out;
}
