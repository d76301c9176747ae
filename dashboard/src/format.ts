/** Figures in words. All pure; times are milliseconds since the Unix epoch unless a name says otherwise. */

/**
 * A value to about four significant digits, without exponent where a person would not write one. The digits hang on the
 * size alone, so that a live figure does not jump; `whole`: it is an integer by its type.
 */
export function number(value: number, whole = false): string {
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e12 || size < 1e-4)) return value.toExponential(3).replace("-", "−");
  const digits = size >= 1000 ? 0 : size >= 100 ? 1 : size >= 1 || size === 0 ? 2 : size >= 0.1 ? 3 : 4;
  return grouped(value, whole ? 0 : digits).replace("-", "−");
}

/** A whole number with thin spaces between thousands. */
export function count(value: number): string {
  return grouped(Math.round(value), 0);
}

/** A large count for little room: 1.2 k, 3.4 M. */
export function short(value: number): string {
  const size = Math.abs(value);
  if (size >= 1e9) return `${(value / 1e9).toFixed(1)} G`;
  if (size >= 1e6) return `${(value / 1e6).toFixed(1)} M`;
  if (size >= 1e4) return `${(value / 1e3).toFixed(1)} k`;
  return count(value);
}

/** A rate: one decimal below 10. */
export function rate(value: number): string {
  return value > 0 && value < 10 ? value.toFixed(1) : short(value);
}

const formats = new Map<number, Intl.NumberFormat>();

function grouped(value: number, digits: number): string {
  let format = formats.get(digits);
  if (!format) {
    format = new Intl.NumberFormat("en", { maximumFractionDigits: digits, minimumFractionDigits: digits });
    formats.set(digits, format);
  }
  return format.format(value).replaceAll(",", "\u202f");
}

/** Bytes in decimal units. */
export function bytes(value: number): string {
  if (value < 1000) return `${Math.round(value)} B`;
  if (value < 1e6) return `${(value / 1e3).toFixed(1)} kB`;
  if (value < 1e9) return `${(value / 1e6).toFixed(1)} MB`;
  return `${(value / 1e9).toFixed(2)} GB`;
}

/** A length of time in its largest unit or two. */
export function span(ms: number): string {
  const s = Math.max(0, ms) / 1000;
  if (s < 60) return `${Math.floor(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3600)} h`;
}

/** How long ago, calm: batches come every second or two, so below five seconds it is "now". */
export function ago(ms: number): string {
  return ms < 5000 ? "now" : `${span(ms)} ago`;
}

/** Milliseconds as a latency. */
export function latency(ms: number): string {
  if (ms < 10) return `${Math.max(0, ms).toFixed(1)} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  return ms < 60_000 ? `${(ms / 1000).toFixed(1)} s` : span(ms);
}

const UNITS: Record<string, string> = {
  Cel: "°C",
  "[degF]": "°F",
  "1": "",
  By: "B",
  "By/s": "B/s",
  Ohm: "Ω",
  deg: "°",
  "m/s2": "m/s²",
  "m3/h": "m³/h",
  "W/m2": "W/m²",
};

/** A UCUM unit as people write it. */
export function unit(ucum: string): string {
  return UNITS[ucum] ?? ucum;
}

/** A value with its unit; bytes get their own scale. */
export function quantity(value: number, ucum: string, whole = false): { value: string; unit: string } {
  if (ucum === "By" || ucum === "By/s" || ucum === "B" || ucum === "B/s") {
    const [figure, prefix] = bytes(Math.abs(value)).split(" ");
    return { value: value < 0 ? `−${figure}` : figure, unit: ucum.endsWith("/s") ? `${prefix}/s` : prefix };
  }
  return { value: number(value, whole), unit: unit(ucum) };
}
