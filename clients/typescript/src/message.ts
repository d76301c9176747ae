/** Messages that are small and rare, read by a table: field number → member and kind. The hot ones are read by hand, in batch.ts and frame.ts. */

import { BYTES, FIXED32, FIXED64, type Reader, VARINT } from "./reader.js";

/** How one field is read; `before` is what the member holds, for lists. */
interface Kind<V> {
  type: number;
  read(reader: Reader, before: V): V;
}

type Fields<T> = Record<number, { [K in keyof T]-?: readonly [K, Kind<T[K]>] }[keyof T]>;

/** A function that reads a message from all of its reader. Fields that the table does not name, or of another wire type, are skipped. */
export function message<T>(empty: () => T, table: Fields<T>): (reader: Reader) => T {
  return (reader) => {
    const into = empty();
    while (reader.more()) {
      const tag = reader.tag();
      const field = table[tag >>> 3] as readonly [keyof T, Kind<T[keyof T]>] | undefined;
      if (field && field[1].type === (tag & 7)) into[field[0]] = field[1].read(reader, into[field[0]]);
      else reader.skip(tag);
    }
    return into;
  };
}

export const UINT: Kind<number> = { type: VARINT, read: (reader) => reader.uint() };
export const INT: Kind<number> = { type: VARINT, read: (reader) => reader.int() };
export const BOOL: Kind<boolean> = { type: VARINT, read: (reader) => reader.uint() !== 0 };
export const TEXT: Kind<string> = { type: BYTES, read: (reader) => reader.string() };
export const DOUBLE: Kind<number> = { type: FIXED64, read: (reader) => reader.double() };
export const NUMBER32: Kind<number> = { type: FIXED32, read: (reader) => reader.fixed32() };
export const NUMBER64: Kind<bigint> = { type: FIXED64, read: (reader) => reader.fixed64() };

/** An enumeration, in words; the first stands for values that this client does not know. */
export function words<W extends string>(all: readonly [W, ...W[]]): Kind<W> {
  return { type: VARINT, read: (reader) => all[reader.uint()] ?? all[0] };
}

/** A message within this one; where it stands twice, the second counts. */
export function one<V>(read: (reader: Reader) => V): Kind<V> {
  return { type: BYTES, read: (reader) => read(reader.message()) };
}

/** A list of messages. */
export function many<V>(read: (reader: Reader) => V): Kind<V[]> {
  return {
    type: BYTES,
    read(reader, before) {
      before.push(read(reader.message()));
      return before;
    },
  };
}
