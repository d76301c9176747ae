import { bits } from "./trace.js";

/** A batch's readings by the formulas in batch.proto: metric → { type, unit, readings: [[microseconds, value as text]] }. */
export function readings(batch) {
  const times = batch.times.map(microseconds);
  const columns = {};
  for (const column of batch.columns) {
    if (columns[column.metric]) throw new Error(`two columns of ${column.metric}`);
    const [type, values] = valuesOf(column);
    const at = times[column.times];
    if (at.length !== values.length)
      throw new Error(`${column.metric}: ${at.length} times, ${values.length} values`);
    columns[column.metric] = {
      type,
      unit: column.unit,
      readings: values.map((value, index) => [String(at[index]), value]),
    };
  }
  return columns;
}

function microseconds(times) {
  if (times.count === 0) return [];
  const unit = times.unitUs || 1n;
  const at = [times.first];
  times.deltas.forEach((delta, index) => {
    for (let run = times.runs.length > 0 ? times.runs[index] : 1; run > 0; run--)
      at.push(at[at.length - 1] + delta);
  });
  if (at.length !== times.count) throw new Error(`${times.count} readings, but ${at.length} times`);
  return at.map((value) => value * unit);
}

function integers({ deltas, factor }) {
  let total = 0n;
  return deltas.map((delta) => {
    total = BigInt.asIntN(64, total + delta);
    return BigInt.asIntN(64, total * (factor || 1n));
  });
}

function valuesOf({ values }) {
  switch (values.case) {
    case "scaled": {
      const divisor = Number(`1e${values.value.scale}`);
      const doubles = integers(values.value).map((mantissa) => Number(mantissa) / divisor);
      values.value.exceptionAt.forEach((at, index) => {
        doubles[at] = values.value.exceptions[index];
      });
      return ["f64", doubles.map(bits)];
    }
    case "doubles":
      return ["f64", values.value.values.map(bits)];
    case "ints":
      return ["i64", integers(values.value).map(String)];
    case "bools":
      return ["bool", values.value.values.map(String)];
    case "strings":
      return ["string", values.value.indices.map((index) => values.value.dictionary[index])];
    default:
      throw new Error("a column without values");
  }
}
