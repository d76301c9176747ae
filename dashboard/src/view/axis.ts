/** How a chart's axes run: ticks in words, and how far they reach. Pure. */

/** Some air above and below; a flat line in the middle. */
export function room(min: number | null, max: number | null, unit: string): [number, number] {
  if (min === null || max === null || !Number.isFinite(min) || !Number.isFinite(max)) return [0, 1];
  const size = max - min;
  const air = size > 0 ? size * 0.12 : Math.abs(max) * 0.02 || 1;
  // Bytes have no halves.
  if (min >= 0 && max < 10 && unit.startsWith("By")) return [0, 10];
  // Nothing that is never negative is drawn as if it could be.
  return [min >= 0 && min - air < 0 ? 0 : min - air, max + air];
}

const DAY_S = 86_400;

/** Times of day, as fine as the axis' steps are; the date where one begins, or where only days are left. */
export function clock(ticks: number[]): string[] {
  const step = ticks.length > 1 ? ticks[1] - ticks[0] : 60;
  const time = new Intl.DateTimeFormat(undefined, {
    hour: "2-digit",
    minute: "2-digit",
    hourCycle: "h23",
    ...(step < 60 ? { second: "2-digit" } : {}),
  });
  const date = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
  let day = "";
  return ticks.map((tick) => {
    const at = new Date(tick * 1000);
    const today = date.format(at);
    const turned = day !== "" && day !== today;
    day = today;
    return step >= DAY_S || turned ? today : time.format(at);
  });
}

export function tickText(tick: number, unit: string, step: number): string {
  if (unit === "By" || unit === "By/s" || unit === "B" || unit === "B/s") {
    const size = Math.abs(tick);
    const [by, name] =
      size >= 1e9 ? [1e9, "GB"] : size >= 1e6 ? [1e6, "MB"] : size >= 1e3 ? [1e3, "kB"] : [1, "B"];
    return `${digits(tick / by, step / by)} ${name}`;
  }
  const size = Math.abs(tick);
  if (size >= 1e6) return `${digits(tick / 1e6, step / 1e6)} M`;
  if (size >= 1e5) return `${digits(tick / 1e3, step / 1e3)} k`;
  return digits(tick, step);
}

/** A tick with as many decimals as its axis' step has. */
function digits(tick: number, step: number): string {
  let decimals = 0;
  for (let scaled = step; decimals < 8 && Math.abs(scaled - Math.round(scaled)) > 1e-6; scaled *= 10)
    decimals += 1;
  return tick.toFixed(decimals).replace("-", "−");
}
