import { create, toBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { decodeBatch } from "../src/batch.js";
import { DecodeError } from "../src/reader.js";
import { BatchSchema } from "./gen/headwater/v1/batch_pb.js";

const int64 = fc.oneof(
  fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
  fc.bigInt({ min: -200n, max: 200n }),
  fc.bigInt({ min: -(2n ** 54n), max: 2n ** 54n }),
  fc.constantFrom(0n, -1n, 2n ** 63n - 1n, -(2n ** 63n), 2n ** 53n, 2n ** 53n - 1n, -(2n ** 53n)),
);
const factor = fc.oneof(
  fc.constantFrom(0n, 1n, 5n, 1000n, 2n ** 64n - 1n),
  fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
);
const wrap = (value: bigint) => BigInt.asIntN(64, value);

/** What batch.proto says, by BigInt, one value at a time. */
function model(deltas: bigint[], by: bigint): bigint[] {
  let sum = 0n;
  return deltas.map((delta) => {
    sum = wrap(sum + delta);
    return wrap(sum * (by || 1n));
  });
}

const bits = (values: Float64Array<ArrayBuffer>) => [...new BigUint64Array(values.buffer)];
const regular = (count: number) => ({
  first: 5n,
  count,
  deltas: count > 1 ? [1n] : [],
  runs: count > 1 ? [count - 1] : [],
});

function decodeOne(values: object, count: number) {
  return decodeBatch(
    toBinary(
      BatchSchema,
      create(BatchSchema, {
        times: [regular(count)],
        columns: [{ metric: "m", unit: "V", values: values as never }],
      }),
    ),
  ).columns[0];
}

describe("decodeBatch gives what batch.proto says", () => {
  it("for integers of any size", () => {
    fc.assert(
      fc.property(fc.array(int64, { minLength: 1, maxLength: 50 }), factor, (deltas, by) => {
        const column = decodeOne({ case: "ints", value: { factor: by, deltas } }, deltas.length);
        expect(column.type).toBe("i64");
        expect([...(column.values as BigInt64Array)].map(BigInt)).toEqual(model(deltas, by));
      }),
      { numRuns: 500 },
    );
  });

  it("for scaled decimals with exceptions, bit for bit", () => {
    const doubles = fc.oneof(fc.double(), fc.constantFrom(-0, Number.NaN, Infinity, -Infinity, 5e-324));
    fc.assert(
      fc.property(
        fc.array(int64, { minLength: 1, maxLength: 50 }),
        fc.integer({ min: 0, max: 22 }),
        factor,
        fc.array(doubles, { maxLength: 5 }),
        (deltas, scale, by, exceptions) => {
          const at = exceptions.map((_, i) => i).filter((i) => i < deltas.length);
          const value = {
            scale,
            factor: by,
            deltas,
            exceptionAt: at,
            exceptions: exceptions.slice(0, at.length),
          };
          const column = decodeOne({ case: "scaled", value }, deltas.length);
          const expected = Float64Array.from(model(deltas, by), (m) => Number(m) / Number(`1e${scale}`));
          for (const i of at) expected[i] = exceptions[i];
          expect(bits(column.values as Float64Array<ArrayBuffer>)).toEqual(bits(expected));
        },
      ),
      { numRuns: 500 },
    );
  });

  it("for decimals as people write them", () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: -1_000_000, max: 1_000_000 }), { minLength: 1 }),
        fc.integer({ min: 0, max: 6 }),
        (mantissas, scale) => {
          const deltas = mantissas.map((m, i) => BigInt(m - (mantissas[i - 1] ?? 0)));
          const column = decodeOne({ case: "scaled", value: { scale, deltas } }, deltas.length);
          expect([...(column.values as Float64Array)]).toEqual(
            mantissas.map((m) => Number(`${m}e-${scale}`) + 0),
          );
        },
      ),
    );
  });

  it("for doubles with NaN payloads", () => {
    const payload = new BigUint64Array([0x7ff8dead_beef0001n, 0xfff00000_00000001n, 0x80000000_00000000n]);
    const bytes = [...new Uint8Array(payload.buffer)];
    const inner = [0x0a, 24, ...bytes];
    const column = [0x0a, 1, 0x6d, 0x2a, inner.length, ...inner];
    const times = [0x18, 3, 0x22, 2, 0, 0];
    const batch = decodeBatch(new Uint8Array([0x22, times.length, ...times, 0x2a, column.length, ...column]));
    expect(bits(batch.columns[0].values as Float64Array<ArrayBuffer>)).toEqual([...payload]);
  });

  it("for times with runs and units", () => {
    const runs = fc.array(fc.tuple(int64, fc.integer({ min: 1, max: 4 })), { maxLength: 10 });
    fc.assert(
      fc.property(
        int64,
        fc.constantFrom(0n, 1n, 1000n, 1_000_000n),
        runs,
        fc.boolean(),
        (first, unit, pairs, packed) => {
          const spread = pairs.flatMap(([delta, run]) => Array<bigint>(run).fill(delta));
          const times = packed
            ? {
                first,
                unitUs: unit,
                count: spread.length + 1,
                deltas: pairs.map((p) => p[0]),
                runs: pairs.map((p) => p[1]),
              }
            : { first, unitUs: unit, count: spread.length + 1, deltas: spread };
          const bools = Array<boolean>(spread.length + 1).fill(true);
          const bytes = toBinary(
            BatchSchema,
            create(BatchSchema, {
              times: [times],
              columns: [{ metric: "m", values: { case: "bools", value: { values: bools } } }],
            }),
          );
          const expected = [wrap(first * (unit || 1n))];
          let now = first;
          for (const delta of spread) {
            now = wrap(now + delta);
            expected.push(wrap(now * (unit || 1n)));
          }
          expect([...decodeBatch(bytes).columns[0].times]).toEqual(expected.map(Number));
        },
      ),
      { numRuns: 500 },
    );
  });

  it("for strings, names beyond ASCII, marks, loss and clock", () => {
    const batch = decodeBatch(
      toBinary(
        BatchSchema,
        create(BatchSchema, {
          device: "Dachs-Ü",
          stream: 2n ** 64n - 1n,
          seq: 2n ** 64n - 1n,
          clock: 1,
          times: [regular(3)],
          columns: [
            {
              metric: "zustand 🌡",
              unit: "Cel",
              values: { case: "strings", value: { dictionary: ["ä", ""], indices: [0, 1, 0] } },
              suspect: [1, 2],
            },
          ],
        }),
      ),
    );
    expect(batch).toMatchObject({
      device: "Dachs-Ü",
      stream: 2n ** 64n - 1n,
      seq: 2n ** 64n - 1n,
      clock: "uncertain",
    });
    expect(batch.columns[0]).toMatchObject({ metric: "zustand 🌡", unit: "Cel", values: ["ä", "", "ä"] });
    expect([...batch.columns[0].suspect]).toEqual([1, 2]);
    expect([...batch.columns[0].times]).toEqual([5, 6, 7]);
    const loss = create(BatchSchema, { seq: 4n, loss: { through: 9n, readings: 50n, reason: 1 } });
    expect(decodeBatch(toBinary(BatchSchema, loss)).loss).toEqual({
      through: 9n,
      readings: 50,
      reason: "journal full",
    });
  });
});

describe("decodeBatch refuses", () => {
  const refusal = (batch: object) => () => decodeBatch(toBinary(BatchSchema, create(BatchSchema, batch)));
  const ints = (deltas: bigint[]) => ({ case: "ints", value: { deltas } });

  const cases: [object, RegExp][] = [
    [{ columns: [{ metric: "m", values: ints([1n]) }] }, /points to times\[0\]; there are 0/],
    [
      { times: [regular(2)], columns: [{ metric: "m", values: ints([1n]) }] },
      /column 0 \(m\) has 1 values for 2 times/,
    ],
    [{ times: [regular(1)], columns: [{ metric: "m" }] }, /without values/],
    [
      { times: [{ count: 3, deltas: [1n] }], columns: [{ values: ints([1n, 1n, 1n]) }] },
      /3 readings but 1 differences/,
    ],
    [
      { times: [{ count: 2, deltas: [1n], runs: [1, 1] }], columns: [{ values: ints([1n, 1n]) }] },
      /1 differences and 2 runs/,
    ],
    [
      { times: [regular(1)], columns: [{ values: { case: "scaled", value: { scale: 23, deltas: [1n] } } }] },
      /scale of 23/,
    ],
    [
      {
        times: [regular(1)],
        columns: [{ values: { case: "scaled", value: { deltas: [1n], exceptionAt: [1], exceptions: [1] } } }],
      },
      /exception at reading 1 of 1/,
    ],
    [
      {
        times: [regular(1)],
        columns: [{ values: { case: "strings", value: { dictionary: [], indices: [0] } } }],
      },
      /string 0 of a dictionary of 0/,
    ],
    [{ times: [regular(1)], columns: [{ values: ints([1n]), suspect: [1] }] }, /marks reading 1/],
  ];
  it.each(cases.map(([batch, why]) => ({ refuse: refusal(batch), why })))(
    "what does not add up: $why",
    ({ refuse, why }) => {
      expect(refuse).toThrow(why);
      expect(refuse).toThrow(DecodeError);
    },
  );

  it("a run that asks for memory that no values need", () => {
    const batch = {
      times: [{ count: 4_000_000_000, deltas: [1n], runs: [3_999_999_999] }],
      columns: [{ values: ints([1n]) }],
    };
    expect(refusal(batch)).toThrow(/1 values for 4000000000 times/);
  });

  it("anything cut off or random, with a DecodeError and nothing else", () => {
    const whole = toBinary(
      BatchSchema,
      create(BatchSchema, {
        device: "d",
        times: [regular(4)],
        columns: [
          {
            metric: "a",
            values: {
              case: "scaled",
              value: { scale: 2, deltas: [1n, 2n, 3n, 4n], exceptionAt: [1], exceptions: [9.5] },
            },
          },
          { metric: "b", values: { case: "strings", value: { dictionary: ["x"], indices: [0, 0, 0, 0] } } },
        ],
      }),
    );
    const decode = (bytes: Uint8Array) => {
      try {
        decodeBatch(bytes);
      } catch (error) {
        expect(error).toBeInstanceOf(DecodeError);
      }
    };
    for (let end = 0; end < whole.length; end++) decode(whole.subarray(0, end));
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), decode), { numRuns: 2000 });
    const broken = fc.tuple(fc.nat(whole.length - 1), fc.nat(255));
    fc.assert(
      fc.property(fc.array(broken, { minLength: 1, maxLength: 4 }), (changes) => {
        const copy = whole.slice();
        for (const [at, to] of changes) copy[at] = to;
        decode(copy);
      }),
      { numRuns: 2000 },
    );
  });
});
