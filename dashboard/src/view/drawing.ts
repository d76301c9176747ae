/** Keeps one chart drawn: uPlot for axes and lines, and over them what is missing, lost or doubted. */

import uPlot from "uplot";
import type { Feed } from "../feed";
import { quantity, unit as unitText } from "../format";
import type { Group } from "../group";
import { now } from "../link";
import { gapAfter, plot } from "../plot";
import type { Line } from "../store";
import { clock, room, tickText } from "./axis";
import { gestures, type Sight } from "./gestures";

/** Batches take their time: nothing new for so long is a gap in the making. */
const OVERDUE_MS = 6000;

/** A line's elements in the legend; kept up by hand, since they change with every batch. */
interface Entry {
  item: HTMLElement;
  figure: HTMLElement;
  unit: HTMLElement;
}

export function draw(
  feed: Feed,
  group: Group<Line>,
  sight: Sight,
  home: HTMLElement,
  canvas: HTMLElement,
): () => void {
  const style = getComputedStyle(document.body);
  const color = (name: string) => style.getPropertyValue(name).trim();
  const entries: Entry[] = [...home.querySelectorAll<HTMLElement>("li[data-metric]")].map((item) => ({
    item,
    figure: item.querySelector("b")!,
    unit: item.querySelector("small")!,
  }));
  const lines = group.members;
  const all = lines.map((line) => line.series!);
  const names = new Set(lines.map((line) => line.device));
  const isBool = lines.every((line) => line.kind === "bool");
  const alone = lines.length === 1;
  let gaps: [number, number][] = [];
  let hovered: number | null = null;

  const em = Number.parseFloat(getComputedStyle(document.documentElement).fontSize) / 16;
  const axis = {
    stroke: color("--muted"),
    font: `${Math.round(12 * em)}px ${style.fontFamily}`,
    grid: { stroke: color("--grid"), width: 1 },
    ticks: { show: false },
  };
  const chart = new uPlot(
    {
      width: canvas.clientWidth || 300,
      height: canvas.clientHeight || 190,
      legend: { show: false },
      padding: [8, 14, 0, 0],
      cursor: {
        sync: { key: "charts" },
        drag: { x: false, y: false },
        points: { size: 7 },
      },
      scales: {
        x: { time: true, range: () => sight.edges().map((ms) => ms / 1000) as [number, number] },
        y: isBool ? { range: () => [-0.1, 1.1] } : { range: (_, min, max) => heights(min, max) },
      },
      axes: [
        {
          ...axis,
          space: (canvas.clientWidth < 420 ? 50 : 76) * em,
          size: 28 * em,
          values: (_, ticks) => clock(ticks),
        },
        {
          ...axis,
          size: 56 * em,
          space: 34 * em,
          values: (_, ticks) =>
            isBool
              ? ticks.map((tick) => (tick === 0 ? "off" : tick === 1 ? "on" : ""))
              : ticks.map((tick) => tickText(tick, group.unit, ticks.length > 1 ? ticks[1] - ticks[0] : 1)),
        },
      ],
      series: [
        {},
        ...lines.map((line, i) => ({
          label: line.metric,
          stroke: color(`--ink-${ink(feed, line, i)}`),
          width: 1.75 * em,
          // A few readings make no line to be seen.
          points: {
            show: (u: uPlot, at: number) => sparse(u.data[at]),
            size: 6 * em,
            fill: color(`--ink-${ink(feed, line, i)}`),
          },
          spanGaps: false,
          ...(alone && !isBool ? { fill: wash(color(`--ink-${ink(feed, line, i)}`)) } : {}),
          ...(isBool ? { paths: uPlot.paths.stepped!({ align: 1 }) } : {}),
        })),
      ],
      hooks: {
        drawClear: [(u) => bands(u)],
        draw: [(u) => doubts(u)],
        setCursor: [
          (u) => {
            hovered = u.cursor.idx ?? null;
            if ((u.cursor.left ?? -1) < 0) hovered = null;
            legend();
          },
        ],
      },
    },
    [[], ...all.map(() => [])] as uPlot.AlignedData,
    canvas,
  );
  const letGo = gestures(chart.over, sight);

  /** By the readings that are trusted; those in doubt only where there are no others. */
  function heights(min: number | null, max: number | null): [number, number] {
    if (min !== null || lines.every((line) => line.suspects.length === 0)) return room(min, max, group.unit);
    const values = lines.flatMap((line) => line.suspects.map(([, value]) => value)).filter(Number.isFinite);
    return values.length > 0
      ? room(Math.min(...values), Math.max(...values), group.unit)
      : room(null, null, "");
  }

  /** Behind the lines: where readings are missing, and where they were given up. */
  function bands(u: uPlot): void {
    const { ctx } = u;
    const { left, top, width, height } = u.bbox;
    const x = (ms: number) => Math.max(left, Math.min(left + width, u.valToPos(ms / 1000, "x", true)));
    const stripe = (from: number, to: number, ink: string, solid: boolean) => {
      const [a, b] = [x(from), x(to)];
      const size = Math.max(b - a, solid ? 3 * devicePixelRatio : 0);
      if (size <= 0 || b < left || a > left + width || (b <= left && a <= left)) return;
      ctx.save();
      ctx.beginPath();
      ctx.rect(a, top, size, height);
      ctx.clip();
      ctx.strokeStyle = ink;
      ctx.lineWidth = devicePixelRatio;
      ctx.globalAlpha = solid ? 0.8 : 0.45;
      ctx.beginPath();
      const step = 8 * devicePixelRatio;
      for (let at = a - height - ((a - height) % step); at < a + size; at += step) {
        ctx.moveTo(at, top + height);
        ctx.lineTo(at + height, top);
      }
      ctx.stroke();
      if (solid) {
        ctx.globalAlpha = 0.16;
        ctx.fillStyle = ink;
        ctx.fillRect(a, top, size, height);
      }
      ctx.restore();
    };
    for (const [from, to] of gaps) stripe(from, to, color("--muted"), false);
    const losses = feed.store
      .peek()
      .losses.filter(({ device, from }) => names.has(device) && !Number.isNaN(from));
    const stretches = losses.map(({ from, to }): [number, number] => [from, Number.isNaN(to) ? now() : to]);
    for (const [from, to] of joined(stretches)) stripe(from, to, color("--bad"), true);
  }

  /** Over the lines: a ring for each suspect reading, at the edge with a tip where it lies outside. */
  function doubts(u: uPlot): void {
    const { ctx } = u;
    const { left, top, width, height } = u.bbox;
    const size = 4.5 * em * devicePixelRatio;
    ctx.save();
    ctx.strokeStyle = color("--warm");
    ctx.fillStyle = color("--surface");
    ctx.lineWidth = 2 * em * devicePixelRatio;
    for (const line of lines) {
      for (const [time, value] of line.suspects) {
        const x = u.valToPos(time / 1000, "x", true);
        if (x < left || x > left + width) continue;
        const y = u.valToPos(value, "y", true);
        const above = !(y >= top);
        ctx.beginPath();
        if (y >= top && y <= top + height) ctx.arc(x, y, size, 0, 2 * Math.PI);
        else {
          const tip = above ? top + 1 : top + height - 1;
          const foot = above ? tip + size * 1.8 : tip - size * 1.8;
          ctx.moveTo(x, tip);
          ctx.lineTo(x - size, foot);
          ctx.lineTo(x + size, foot);
          ctx.closePath();
        }
        ctx.fill();
        ctx.stroke();
      }
    }
    ctx.restore();
  }

  function legend(): void {
    for (const [i, { item, figure, unit }] of entries.entries()) {
      const series = all[i];
      const line = lines[i];
      if (Number.isNaN(series.lastTime)) continue;
      const hover =
        hovered === null ? null : near(chart.data[i + 1] as (number | null | undefined)[], hovered);
      // Of a range that stands still what it ends with, else the newest.
      const end = "from" in feed.range ? series.from(feed.range.to) - 1 : series.length - 1;
      const value = hover ?? (end >= 0 ? series.values[end] : Number.NaN);
      const text = isBool
        ? { value: value ? "on" : "off", unit: "" }
        : quantity(value, group.unit, line.kind === "i64");
      if (figure.textContent !== text.value) figure.textContent = text.value;
      const unitNow = alone || text.unit !== unitText(group.unit) ? text.unit : "";
      if (unit.textContent !== unitNow) unit.textContent = unitNow;
      item.dataset.value = String(series.lastValue);
      item.dataset.timeMs = String(series.lastTime);
      item.dataset.points = String(line.buckets?.count ?? series.length);
      item.dataset.suspects = String(line.suspects.length);
    }
  }

  // As often as a pixel passes, at most 30 times a second, and not at all while nobody looks.
  let frame = 0;
  let drawnAt = 0;
  let drawn = "";
  const tick = (time: number) => {
    frame = requestAnimationFrame(tick);
    const [from, to] = sight.edges();
    const still = "from" in feed.range;
    const version = all.reduce((sum, series) => sum + series.version, 0) + feed.store.peek().losses.length;
    const state = `${version} ${still ? `${from} ${to}` : to - from} ${chart.width}`;
    const pixelMs = (to - from) / Math.max(100, chart.width);
    if (state === drawn && still) return;
    if (time - drawnAt < (state === drawn ? Math.max(pixelMs, 33) : 33)) return;
    drawnAt = time;
    drawn = state;
    const data = plot(all, from, to, Math.max(100, chart.width - 60));
    gaps = data.gaps;
    // What is overdue shows as well: it may yet come.
    const last = Math.max(...all.map((series) => (series.length > 0 ? series.lastTime : Number.NaN)));
    const limits = all.map(gapAfter).filter(Number.isFinite);
    const end = Math.min(to, now());
    // Not where it is not known how often readings come.
    if (limits.length > 0 && end - last > Math.max(OVERDUE_MS, ...limits)) gaps.push([last, end]);
    chart.setData([data.times.map((ms) => ms / 1000), ...data.values] as uPlot.AlignedData);
    legend();
  };
  frame = requestAnimationFrame(tick);

  const sizes = new ResizeObserver(() => {
    if (canvas.clientWidth > 0) chart.setSize({ width: canvas.clientWidth, height: canvas.clientHeight });
  });
  sizes.observe(canvas);
  return () => {
    cancelAnimationFrame(frame);
    sizes.disconnect();
    letGo();
    chart.destroy();
  };
}

/** Which colour a line has: of several devices each keeps its own in every chart. */
export function ink(feed: Feed, line: Line, at: number): number {
  return feed.devices.length > 1 ? feed.devices.indexOf(line.device) : at;
}

const FEW = 6;

function sparse(values: ArrayLike<number | null | undefined>): boolean {
  let found = 0;
  for (let i = 0; i < values.length && found <= FEW; i++) if (typeof values[i] === "number") found += 1;
  return found <= FEW;
}

/** Stretches that overlap or touch as one: several devices' losses are not drawn over each other. */
export function joined(stretches: [number, number][]): [number, number][] {
  const out: [number, number][] = [];
  for (const [from, to] of stretches.sort((a, b) => a[0] - b[0])) {
    const last = out.at(-1);
    if (last && from <= last[1]) last[1] = Math.max(last[1], to);
    else out.push([from, to]);
  }
  return out;
}

function near(values: (number | null | undefined)[], index: number): number | null {
  for (let i = index; i >= 0 && i > index - 40; i--) {
    const value = values[i];
    if (typeof value === "number") return value;
    if (value === null) return null;
  }
  return null;
}

/** The line's colour, nearly transparent. */
function wash(color: string): string {
  return color.startsWith("#") ? `${color}1c` : color;
}
