/** A page's charts: a feed, the range it is looked at, and one chart a group. */

import { useSignal } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import { Feed } from "../feed";
import { beat } from "../fleet";
import { ago, count } from "../format";
import { byMetric, group } from "../group";
import { now } from "../link";
import { type ChartsRoute, href } from "../route";
import { ChartsSight } from "../sight";
import { Chart } from "./chart";
import { currentFeed } from "./inspector";
import { lengthName, RangeBar } from "./range-bar";

/** The feed and the range of a page, for as long as it shows these devices. */
export function useCharts(here: ChartsRoute): { feed: Feed; sight: ChartsSight } {
  const made = useMemo(
    () => ({ feed: new Feed(here.devices, here.range), sight: new ChartsSight(here.range) }),
    [here.devices.join("\n")],
  );
  const { feed, sight } = made;
  useEffect(() => {
    currentFeed.value = feed;
    const timer = setInterval(() => feed.forget(), 5000);
    const stop = sight.range.subscribe((range) => feed.look(range));
    const keys = (event: KeyboardEvent) => press(event, sight);
    addEventListener("keydown", keys);
    return () => {
      clearInterval(timer);
      stop();
      removeEventListener("keydown", keys);
      if (currentFeed.value === feed) currentFeed.value = null;
      sight.close();
      feed.close();
    };
  }, [made]);
  useEffect(() => sight.follow(here.range), [here.range]);
  return made;
}

function press(event: KeyboardEvent, sight: ChartsSight): void {
  const typing = event.target instanceof Element && event.target.closest("input, select, textarea, dialog");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const does: Record<string, () => void> = {
    ArrowLeft: () => sight.pan(-0.25),
    ArrowRight: () => sight.pan(0.25),
    "+": () => sight.zoom(0.5),
    "=": () => sight.zoom(0.5),
    "-": () => sight.zoom(2),
    l: () => sight.live(),
    Escape: () => {
      location.hash = "#/";
    },
  };
  const act = does[event.key];
  if (!act) return;
  event.preventDefault();
  act();
}

export function Charts({ here, feed, sight }: { here: ChartsRoute; feed: Feed; sight: ChartsSight }) {
  void feed.changes.value;
  const compares = here.page === "compare";
  const store = feed.store.value;
  const lines = [...store.lines.values()];
  const numeric = lines.filter((line) => line.series);
  const texts = lines.filter((line) => !line.series);
  const groups = compares ? byMetric(numeric, here.devices) : group(numeric);
  const focused = groups.filter(({ members }) => members.some((line) => line.metric === here.metric));
  const shown = focused.length > 0 ? focused : groups;
  const range = sight.range.value;
  const length = "from" in range ? "this stretch" : `the last ${lengthName(range.minutes)}`;
  const lost = store.losses.reduce((sum, loss) => sum + loss.readings, 0);
  const reasons = [...new Set(store.losses.map((loss) => loss.reason))].filter(Boolean).join(", ");
  const doubted = lines.reduce((sum, line) => sum + line.suspects.length, 0);
  return (
    <>
      <RangeBar here={here} sight={sight} />
      {lost > 0 && (
        <p class="story bad" role="status">
          <b>{count(lost)} readings were given up</b> by the agent
          {reasons ? ` (${reasons})` : ""}. The charts mark where.
        </p>
      )}
      {feed.state.value === "loading" && groups.length === 0 && (
        <div class="page-note" role="status">
          <span class="pulse" aria-hidden="true" />
          <p>Reading {length} from the log…</p>
        </div>
      )}
      {feed.state.value === "silent" && (
        <p class="story">
          <b>Nothing in {length}.</b>{" "}
          {groups.length > 0
            ? "These are the newest values there are."
            : "from" in range
              ? "Nothing was sampled then, or Kafka keeps it no more."
              : "What arrives is drawn at once."}
        </p>
      )}
      {texts.length > 0 && <Texts lines={texts} />}
      <div class={focused.length > 0 ? "charts one" : "charts"}>
        {shown.map((each) => (
          <Chart
            key={`${each.key}|${each.members.map((line) => line.device + line.metric).join()}`}
            feed={feed}
            group={each}
            sight={sight}
            compares={compares}
            focus={href({ ...here, range, metric: focused.length > 0 ? "" : each.members[0].metric })}
            large={focused.length > 0}
          />
        ))}
      </div>
      {groups.length > 0 && <Key doubted={doubted} bucket={feed.bucket.value} />}
    </>
  );
}

/** What the marks mean; the ways of the hand. */
function Key({ doubted, bucket }: { doubted: number; bucket: number }) {
  const open = useSignal(false);
  return (
    <footer class="key">
      <span>
        <i class="swatch gap" aria-hidden="true" /> no readings
      </span>
      <span>
        <i class="swatch lost" aria-hidden="true" /> given up
      </span>
      <span>
        <i class="swatch doubt" aria-hidden="true" /> suspect{doubted > 0 ? ` (${count(doubted)})` : ""}
      </span>
      {bucket > 0 && <span>least, greatest and last of every {bucket / 1000} s</span>}
      <button
        type="button"
        aria-expanded={open.value}
        onClick={() => {
          open.value = !open.value;
        }}
      >
        Keys and gestures
      </button>
      {open.value && (
        <p>
          Drag: look closer. Shift and drag, ← →: move. Ctrl and wheel, + −: zoom. Double click, L: live. Esc:
          the fleet.
        </p>
      )}
    </footer>
  );
}

function Texts({ lines }: { lines: { device: string; metric: string; text: string; textTime: number }[] }) {
  void beat.value;
  const several = new Set(lines.map((line) => line.device)).size > 1;
  return (
    <ul class="texts">
      {lines.map((line) => (
        <li key={`${line.device}|${line.metric}`} data-metric={line.metric} data-value={line.text}>
          <span>{several ? `${line.device} · ${line.metric}` : line.metric}</span>
          <b>{line.text}</b>
          <small>{ago(now() - line.textTime)}</small>
        </li>
      ))}
    </ul>
  );
}
