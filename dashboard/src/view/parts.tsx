/** Small pieces that several views share. */

import type { ComponentChildren } from "preact";

/** A line of recent values, without axes: a trend, not a measurement. */
export function Spark({ values, label }: { values: readonly number[]; label: string }) {
  const width = 90;
  const height = 24;
  if (values.length < 2) return <svg class="spark" viewBox={`0 0 ${width} ${height}`} aria-hidden="true" />;
  const top = Math.max(...values, 1e-9) * 1.6;
  const step = width / (values.length - 1);
  const points = values.map(
    (value, i) => `${(i * step).toFixed(1)},${(height - 1.5 - (value / top) * (height - 3)).toFixed(1)}`,
  );
  return (
    <svg
      class="spark"
      viewBox={`0 0 ${width} ${height}`}
      preserveAspectRatio="none"
      role="img"
      aria-label={label}
    >
      <path class="area" d={`M0,${height} L${points.join(" L")} L${width},${height} Z`} />
      <path class="line" d={`M${points.join(" L")}`} />
    </svg>
  );
}

/** A figure with its name; the value large. */
export function Figure(props: {
  name: string;
  value: ComponentChildren;
  unit?: string;
  note?: ComponentChildren;
  /** Beside the name. */
  aside?: ComponentChildren;
  tone?: string;
}) {
  return (
    <div class={`stat ${props.tone ?? ""}`}>
      <dt>
        {props.name}
        {props.aside && <small>{props.aside}</small>}
      </dt>
      <dd>
        <b>{props.value}</b>
        {props.unit && <span class="unit">{props.unit}</span>}
        {props.note && <small>{props.note}</small>}
      </dd>
    </div>
  );
}

/** How full something is, from 0 to 1. */
export function Meter({ share, label, tone = "" }: { share: number; label: string; tone?: string }) {
  const percent = Math.round(Math.max(0, Math.min(1, share)) * 100);
  return (
    <svg
      class={`meter ${tone}`}
      viewBox="0 0 100 4"
      preserveAspectRatio="none"
      role="img"
      aria-label={`${label}: ${percent} %`}
    >
      <rect class="track" width="100" height="4" />
      <rect class="fill" width={percent} height="4" />
    </svg>
  );
}

export function StateDot({ online, cut = false }: { online: boolean; cut?: boolean }) {
  const text = cut ? "link cut" : online ? "online" : "offline";
  return (
    <span class={`state ${cut ? "cut" : online ? "on" : "off"}`}>
      <i aria-hidden="true" />
      {text}
    </span>
  );
}
