/** One group of lines as a chart: what it is and its newest values above, the drawing below. */

import { useEffect, useRef } from "preact/hooks";
import type { Feed } from "../feed";
import { unit as unitText } from "../format";
import { type Group, label } from "../group";
import type { Line } from "../store";
import { theme } from "../theme";
import { draw, ink } from "./drawing";
import type { Sight } from "./gestures";

export interface ChartProps {
  feed: Feed;
  group: Group<Line>;
  sight: Sight;
  /** Lines are devices, not metrics. */
  compares: boolean;
  /** Where this chart stands alone, or all charts together again. */
  focus: string;
  large: boolean;
}

export function Chart({ feed, group, sight, compares, focus, large }: ChartProps) {
  const home = useRef<HTMLElement>(null);
  const canvas = useRef<HTMLDivElement>(null);
  const shade = theme.value;
  // Groups are made anew whenever anything joins; a chart begins anew only when its own lines do.
  const lines = useRef(group.members);
  if (!same(lines.current, group.members)) lines.current = group.members;

  useEffect(() => {
    if (!home.current || !canvas.current) return;
    return draw(feed, group, sight, home.current, canvas.current);
  }, [feed, lines.current, sight, shade, large]);

  const single = group.members.length === 1;
  return (
    <section
      ref={home}
      class={`chart${single ? " single" : ""}${large ? " large" : ""}`}
      aria-label={`${group.title}, chart`}
    >
      <header>
        <h2>{group.title}</h2>
        {!single && <span class="unit">{unitText(group.unit)}</span>}
        <a class="focus" href={focus} aria-label={large ? "All charts" : `${group.title} alone`}>
          {large ? "All charts" : "Enlarge"}
        </a>
      </header>
      <ul class="legend">
        {group.members.map((line, i) => (
          <li
            key={`${line.device}|${line.metric}`}
            data-device={line.device}
            data-metric={line.metric}
            title={compares ? line.device : line.metric}
          >
            <i class={`ink ink-${ink(feed, line, i)}`} aria-hidden="true" />
            {!single && <span class="label">{compares ? line.device : label(line.metric, group.title)}</span>}
            <b class="figure">–</b>
            <small />
          </li>
        ))}
      </ul>
      <div ref={canvas} class="plot" aria-hidden="true" />
    </section>
  );
}

function same<T>(one: readonly T[], other: readonly T[]): boolean {
  return one.length === other.length && one.every((each, i) => each === other[i]);
}
