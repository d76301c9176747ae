/** One group of metrics as a live chart: uPlot below, a legend with the newest values above. */

import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import type { Feed, Metric } from "../device";
import { quantity, unit as unitText } from "../format";
import { type Group, label } from "../group";
import { now } from "../link";
import { gapAfter, plot } from "../plot";
import { theme } from "../theme";

/** Batches take their time: nothing new for so long is a gap in the making. */
const OVERDUE_MS = 6000;

export function Chart({ feed, group }: { feed: Feed; group: Group<Metric> }) {
  const home = useRef<HTMLElement>(null);
  const canvas = useRef<HTMLDivElement>(null);
  const shade = theme.value;

  useEffect(() => {
    if (!home.current || !canvas.current) return;
    return draw(feed, group, home.current, canvas.current);
  }, [feed, group, shade]);

  const single = group.members.length === 1;
  return (
    <section ref={home} class={single ? "chart single" : "chart"} aria-label={`${group.title}, live chart`}>
      <header>
        <h3>{group.title}</h3>
        {!single && <span class="unit">{unitText(group.unit)}</span>}
      </header>
      <ul class="legend">
        {group.members.map((member, i) => (
          <li key={member.metric} data-metric={member.metric} title={member.metric}>
            <i class={`ink ink-${i}`} aria-hidden="true" />
            {!single && <span class="label">{label(member.metric, group.title)}</span>}
            <b class="figure">–</b>
            <small />
          </li>
        ))}
      </ul>
      <div ref={canvas} class="plot" aria-hidden="true" />
    </section>
  );
}

/** The first time in the legend's elements; kept up by hand, since it changes with every batch. */
interface Entry {
  item: HTMLElement;
  figure: HTMLElement;
  unit: HTMLElement;
}

function draw(feed: Feed, group: Group<Metric>, home: HTMLElement, canvas: HTMLElement): () => void {
  const style = getComputedStyle(document.body);
  const color = (name: string) => style.getPropertyValue(name).trim();
  const entries: Entry[] = [...home.querySelectorAll<HTMLElement>("li[data-metric]")].map((item) => ({
    item,
    figure: item.querySelector("b")!,
    unit: item.querySelector("small")!,
  }));
  const all = group.members.map((member) => member.series!);
  const isBool = group.members.every((member) => member.kind === "bool");
  let gaps: [number, number][] = [];
  let hovered: number | null = null;

  const axis = {
    stroke: color("--muted"),
    font: `12px ${style.fontFamily}`,
    grid: { stroke: color("--grid"), width: 1 },
    ticks: { show: false },
  };
  const chart = new uPlot(
    {
      width: canvas.clientWidth || 300,
      height: canvas.clientHeight || 190,
      legend: { show: false },
      padding: [8, 26, 0, 0],
      cursor: { sync: { key: "device" }, drag: { x: false, y: false }, points: { size: 7 } },
      scales: {
        x: { time: true, range: () => edges() },
        y: isBool ? { range: () => [-0.1, 1.1] } : { range: (_, min, max) => room(min, max, group.unit) },
      },
      axes: [
        {
          ...axis,
          space: canvas.clientWidth < 420 ? 50 : 70,
          size: 28,
          values: (_, ticks) => ticks.map(clock(feed.windowMs)),
        },
        {
          ...axis,
          size: 56,
          space: 34,
          values: (_, ticks) =>
            isBool
              ? ticks.map((tick) => (tick === 0 ? "off" : tick === 1 ? "on" : ""))
              : ticks.map((tick) => tickText(tick, group.unit, ticks.length > 1 ? ticks[1] - ticks[0] : 1)),
        },
      ],
      series: [
        {},
        ...group.members.map((member, i) => ({
          label: member.metric,
          stroke: color(`--ink-${i}`),
          width: 1.75,
          points: { show: false },
          spanGaps: false,
          ...(single(group) && !isBool ? { fill: wash(color(`--ink-${i}`)) } : {}),
          ...(isBool ? { paths: uPlot.paths.stepped!({ align: 1 }) } : {}),
        })),
      ],
      hooks: {
        drawClear: [(u) => bands(u)],
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

  function edges(): [number, number] {
    const end = now() / 1000;
    return [end - feed.windowMs / 1000, end];
  }

  /** Behind the lines: where readings are missing, and where they were given up. */
  function bands(u: uPlot): void {
    const { ctx } = u;
    const { left, top, width, height } = u.bbox;
    const x = (ms: number) => Math.max(left, Math.min(left + width, u.valToPos(ms / 1000, "x", true)));
    ctx.save();
    const stripe = (from: number, to: number, ink: string, solid: boolean) => {
      const [a, b] = [x(from), x(to)];
      const size = Math.max(b - a, solid ? 2 : 0);
      if (size <= 0 || b <= left || a >= left + width) return;
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
    const missing = color("--muted");
    for (const [from, to] of gaps) stripe(from, to, missing, false);
    const lost = color("--bad");
    for (const loss of feed.losses) {
      if (!Number.isNaN(loss.from)) stripe(loss.from, Number.isNaN(loss.to) ? now() : loss.to, lost, true);
    }
    ctx.restore();
  }

  function legend(): void {
    for (const [i, { item, figure, unit }] of entries.entries()) {
      const series = all[i];
      const hover =
        hovered === null ? null : near(chart.data[i + 1] as (number | null | undefined)[], hovered);
      const value = hover ?? series.lastValue;
      if (Number.isNaN(series.lastTime)) continue;
      const text = isBool
        ? { value: value ? "on" : "off", unit: "" }
        : quantity(value, group.unit, group.members[i].kind === "i64");
      if (figure.textContent !== text.value) figure.textContent = text.value;
      const unitNow = single(group) || text.unit !== unitText(group.unit) ? text.unit : "";
      if (unit.textContent !== unitNow) unit.textContent = unitNow;
      item.dataset.value = String(series.lastValue);
      item.dataset.timeMs = String(series.lastTime);
      item.dataset.points = String(series.length);
    }
  }

  // As often as a pixel passes, at most 30 times a second, and not at all while nobody looks.
  let frame = 0;
  let drawnAt = 0;
  let drawnVersion = -1;
  const tick = (time: number) => {
    frame = requestAnimationFrame(tick);
    const version = all.reduce((sum, series) => sum + series.version, 0) + feed.losses.length;
    const pixelMs = feed.windowMs / Math.max(100, chart.width);
    const wait = version === drawnVersion ? Math.max(pixelMs, 33) : 33;
    if (time - drawnAt < wait) return;
    drawnAt = time;
    drawnVersion = version;
    const to = now();
    const data = plot(all, to - feed.windowMs, to, Math.max(100, chart.width - 60));
    gaps = data.gaps;
    // What is overdue shows as well: it may yet come.
    const last = Math.max(...all.map((series) => (series.length > 0 ? series.lastTime : Number.NaN)));
    const limits = all.map(gapAfter).filter(Number.isFinite);
    if (to - last > Math.max(OVERDUE_MS, ...limits)) gaps.push([last, to]);
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
    chart.destroy();
  };
}

function single(group: Group<Metric>): boolean {
  return group.members.length === 1;
}

/** Some air above and below; a flat line in the middle. */
function room(min: number | null, max: number | null, unit: string): [number, number] {
  if (min === null || max === null || !Number.isFinite(min) || !Number.isFinite(max)) return [0, 1];
  const size = max - min;
  const air = size > 0 ? size * 0.12 : Math.abs(max) * 0.02 || 1;
  // Bytes have no halves.
  if (min >= 0 && max < 10 && unit.startsWith("By")) return [0, 10];
  // Nothing that is never negative is drawn as if it could be.
  return [min >= 0 && min - air < 0 ? 0 : min - air, max + air];
}

function near(values: (number | null | undefined)[], index: number): number | null {
  for (let i = index; i >= 0 && i > index - 40; i--) {
    const value = values[i];
    if (typeof value === "number") return value;
    if (value === null) return null;
  }
  return null;
}

/** Times of day, as the axis' steps need them. */
function clock(windowMs: number): (seconds: number) => string {
  const format = new Intl.DateTimeFormat(undefined, {
    hour: "2-digit",
    minute: "2-digit",
    hourCycle: "h23",
    ...(windowMs <= 120_000 ? { second: "2-digit" } : {}),
  });
  return (seconds) => format.format(seconds * 1000);
}

function tickText(tick: number, unit: string, step: number): string {
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

/** The line's colour, nearly transparent. */
function wash(color: string): string {
  return color.startsWith("#") ? `${color}1c` : color;
}
