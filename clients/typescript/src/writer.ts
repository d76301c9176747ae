/** A writer of protobuf's wire format, for the few small frames that a client sends. Zeros and empty texts are left out, as proto3 does. */

import { BYTES, VARINT } from "./reader.js";

const utf8 = new TextEncoder();

export class Writer {
  private readonly out: number[] = [];

  /** An integer from 0 to 2^53 - 1, or a bigint of 64 bits; a negative one takes two's complement, as int64 does. */
  int(field: number, value: number | bigint): this {
    return value ? this.member(field, value) : this;
  }

  /** The same for a member of a oneof, which is there even if it is 0. */
  member(field: number, value: number | bigint): this {
    return this.varint(field * 8 + VARINT).varint(value);
  }

  text(field: number, value: string): this {
    return value ? this.bytes(field, utf8.encode(value)) : this;
  }

  texts(field: number, values: readonly string[]): this {
    // An empty element of a list is an element.
    for (const value of values) this.bytes(field, utf8.encode(value));
    return this;
  }

  /** A message within this one; it is there even if it is empty. */
  message(field: number, inner: Writer): this {
    return this.bytes(field, inner.out);
  }

  finish(): Uint8Array<ArrayBuffer> {
    return Uint8Array.from(this.out);
  }

  private bytes(field: number, bytes: ArrayLike<number>): this {
    this.varint(field * 8 + BYTES).varint(bytes.length);
    for (let i = 0; i < bytes.length; i++) this.out.push(bytes[i]);
    return this;
  }

  private varint(value: number | bigint): this {
    let rest = BigInt.asUintN(64, BigInt(value));
    for (; rest > 0x7fn; rest >>= 7n) this.out.push(Number(rest & 0x7fn) | 0x80);
    this.out.push(Number(rest));
    return this;
  }
}
