/** Which stretch of time the charts show, and the ways to another. */

import { type ChartsRoute, href, PRESETS } from "../route";
import type { ChartsSight } from "../sight";

export function RangeBar({ here, sight }: { here: ChartsRoute; sight: ChartsSight }) {
  const range = sight.range.value;
  const live = "minutes" in range;
  const preset = live && PRESETS.some((minutes) => Math.abs(minutes - range.minutes) < 0.01);
  return (
    <div class="range">
      <nav class="windows" aria-label="Length of the charts">
        {PRESETS.map((minutes) => (
          <a
            key={minutes}
            href={href({ ...here, range: { minutes } })}
            aria-current={live && Math.abs(minutes - range.minutes) < 0.01 ? "true" : undefined}
          >
            {lengthName(minutes)}
          </a>
        ))}
      </nav>
      <fieldset class="steps" aria-label="Move along the time">
        <button type="button" onClick={() => sight.pan(-0.5)} aria-label="Earlier" title="Earlier   ←">
          <Icon d="M14 6l-6 6 6 6" />
        </button>
        <button type="button" onClick={() => sight.zoom(2)} aria-label="Zoom out" title="Zoom out   −">
          <Icon d="M6 12h12" />
        </button>
        <button type="button" onClick={() => sight.zoom(0.5)} aria-label="Zoom in" title="Zoom in   +">
          <Icon d="M6 12h12M12 6v12" />
        </button>
        <button
          type="button"
          onClick={() => sight.pan(0.5)}
          disabled={live}
          aria-label="Later"
          title="Later   →"
        >
          <Icon d="M10 6l6 6-6 6" />
        </button>
        <button
          type="button"
          class={live ? "live on" : "live"}
          aria-pressed={live}
          onClick={() => sight.live()}
          title="Back to what is now   L, or a double click"
        >
          <i aria-hidden="true" />
          Live
        </button>
      </fieldset>
      {!preset && (
        <p class="stretch">
          {live ? `the last ${lengthName(range.minutes)}` : stretch(range.from, range.to)}
        </p>
      )}
    </div>
  );
}

export function lengthName(minutes: number): string {
  if (minutes < 1) return `${Math.round(minutes * 60)} s`;
  if (minutes < 60) return `${Number(minutes.toFixed(1))} min`;
  if (minutes < 1440) return `${Number((minutes / 60).toFixed(1))} h`;
  return `${Number((minutes / 1440).toFixed(1))} d`;
}

function stretch(from: number, to: number): string {
  const time = new Intl.DateTimeFormat(undefined, { timeStyle: "medium", hourCycle: "h23" });
  const date = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
  const [a, b] = [new Date(from), new Date(to)];
  const today = date.format(new Date());
  const first = date.format(a) === today ? "" : `${date.format(a)} `;
  const second = date.format(b) === date.format(a) ? "" : `${date.format(b)} `;
  return `${first}${time.format(a)} – ${second}${time.format(b)}`;
}

function Icon({ d }: { d: string }) {
  return (
    <svg viewBox="0 0 24 24" aria-hidden="true">
      <path d={d} />
    </svg>
  );
}
