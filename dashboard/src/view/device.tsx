/** One device: its charts, and how it is. */

import { useEffect, useMemo } from "preact/hooks";
import { agents } from "../demo";
import { Feed, quantile } from "../device";
import { beat, fleet, known } from "../fleet";
import { ago, count, latency, rate, short, span } from "../format";
import { now } from "../link";
import { href, WINDOWS } from "../route";
import { Chart } from "./chart";
import { currentFeed } from "./inspector";
import { CutStory, LinkSwitch } from "./link-switch";
import { Figure, StateDot } from "./parts";

export function DeviceView({ device, minutes }: { device: string; minutes: number }) {
  const feed = useMemo(() => new Feed(device, minutes * 60_000), [device, minutes]);
  useEffect(() => {
    currentFeed.value = feed;
    const timer = setInterval(() => feed.forget(), 5000);
    return () => {
      clearInterval(timer);
      if (currentFeed.value === feed) currentFeed.value = null;
      feed.close();
    };
  }, [feed]);
  // Read so that relative times move on.
  void beat.value;

  const state = fleet.value.find((each) => each.name === device);
  const agent = agents.value?.get(device);
  // What is being gathered into a batch does not wait yet.
  const batches = agent?.waiting_batches ?? state?.waiting.batches ?? 0;
  const waits = batches > 0 ? (agent?.waiting_readings ?? state?.waiting.readings ?? 0) : 0;
  const oldest = agent ? agent.oldest_us / 1000 : (state?.waiting.oldest ?? 0);
  const lostHere = feed.losses.reduce((sum, loss) => sum + loss.readings, 0);
  return (
    <>
      <div class="device-head">
        <a class="back" href={href({ page: "fleet" })}>
          ← Fleet
        </a>
        <h1>{device}</h1>
        {state && <StateDot online={state.online} cut={agent?.link === "down"} />}
        <LinkSwitch device={device} />
        <nav class="windows" aria-label="Length of the charts">
          {WINDOWS.map((each) => (
            <a
              key={each}
              href={href({ page: "device", device, minutes: each })}
              aria-current={each === minutes ? "true" : undefined}
            >
              {each < 60 ? `${each} min` : `${each / 60} h`}
            </a>
          ))}
        </nav>
      </div>
      {state ? (
        <dl class="stats small">
          <Figure name="Last seen" value={state.lastSeen > 0 ? ago(now() - state.lastSeen) : "never"} />
          <Figure name="Readings/s" value={rate(state.readingsPerS)} />
          <Figure
            name="Waiting in the agent"
            value={short(waits)}
            unit={oldest > 0 && now() - oldest > 10_000 ? `since ${span(now() - oldest)}` : "readings"}
            tone={oldest > 0 && now() - oldest > 10_000 ? "warn" : ""}
          />
          <Figure name="Lost" value={short(state.lost)} unit="readings" tone={state.lost > 0 ? "bad" : ""} />
          <Figure
            name="Sample → screen"
            value={feed.latencies.length > 0 ? latency(quantile(feed.latencies, 0.5)) : "–"}
            unit="median"
          />
          <Figure name="Agent" value={state.version || "–"} unit={state.target.split("-")[0]} />
        </dl>
      ) : (
        known.value && <p class="story">The relay knows no device of this name (yet).</p>
      )}
      <CutStory device={device} />
      {lostHere > 0 && (
        <p class="story bad" role="status">
          <b>{count(lostHere)} readings of this window were given up</b> by the agent (
          {[...new Set(feed.losses.map((loss) => loss.reason))].join(", ")}). The charts mark where.
        </p>
      )}
      {feed.state.value === "loading" && feed.groups.value.length === 0 && (
        <div class="page-note" role="status">
          <span class="pulse" aria-hidden="true" />
          <p>Reading the last {minutes < 60 ? `${minutes} minutes` : "hour"} from the log…</p>
        </div>
      )}
      {feed.state.value === "silent" && (
        <p class="story">
          <b>Nothing in the last {minutes < 60 ? `${minutes} min` : "hour"}.</b>{" "}
          {feed.groups.value.length > 0
            ? "These are the newest values there are."
            : "What arrives is drawn at once."}
        </p>
      )}
      {feed.texts.value.length > 0 && (
        <ul class="texts">
          {feed.texts.value.map((metric) => (
            <li key={metric.metric} data-metric={metric.metric} data-value={metric.text}>
              <span>{metric.metric}</span>
              <b>{metric.text}</b>
              <small>{ago(now() - metric.textTime)}</small>
            </li>
          ))}
        </ul>
      )}
      <div class="charts">
        {feed.groups.value.map((group) => (
          <Chart key={`${group.key}|${group.members.length}`} feed={feed} group={group} />
        ))}
      </div>
    </>
  );
}
