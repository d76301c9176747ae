/** One device: how it is, its charts, and what can be asked of it. */

import { agents } from "../demo";
import type { Feed } from "../feed";
import { backlogAge, beat, find, known } from "../fleet";
import { ago, latency, rate, short, span } from "../format";
import { now } from "../link";
import { type ChartsRoute, FLEET, href } from "../route";
import { Charts, useCharts } from "./charts";
import { Asks, Replies } from "./commands";
import { CutStory, LinkSwitch } from "./link-switch";
import { Figure, StateDot } from "./parts";

export function DeviceView({ here }: { here: ChartsRoute }) {
  const [device] = here.devices;
  const { feed, sight } = useCharts(here);
  return (
    <>
      <Head device={device} />
      <State device={device} feed={feed} />
      <CutStory device={device} />
      <Replies device={device} />
      <Charts here={here} feed={feed} sight={sight} />
    </>
  );
}

function Head({ device }: { device: string }) {
  const state = find(device);
  return (
    <div class="device-head">
      <a class="back" href={href(FLEET)}>
        ← Fleet
      </a>
      <h1>{device}</h1>
      {state && <StateDot online={state.online} cut={agents.value?.get(device)?.link === "down"} />}
      <LinkSwitch device={device} />
      <Asks device={device} />
    </div>
  );
}

function State({ device, feed }: { device: string; feed: Feed }) {
  // Read so that relative times move on.
  void beat.value;
  const state = find(device);
  if (!state) return known.value ? <p class="story">The relay knows no device of this name (yet).</p> : null;
  const agent = agents.value?.get(device);
  const waiting = agent
    ? {
        ...state.waiting,
        batches: agent.waiting_batches,
        readings: agent.waiting_readings,
        oldest: agent.oldest_us / 1000,
      }
    : state.waiting;
  const age = backlogAge({ ...state, waiting }, now());
  const seen = feed.latencies.quantile(0.5);
  return (
    <dl class="stats small">
      <Figure name="Last seen" value={state.lastSeen > 0 ? ago(now() - state.lastSeen) : "never"} />
      <Figure name="Readings/s" value={rate(state.readingsPerS)} />
      <Figure
        name="Waiting in the agent"
        value={short(waiting.batches > 0 ? waiting.readings : 0)}
        unit={age > 0 ? `since ${span(age)}` : "readings"}
        tone={age > 0 ? "warn" : ""}
      />
      <Figure name="Lost" value={short(state.lost)} unit="readings" tone={state.lost > 0 ? "bad" : ""} />
      <Figure name="Sample → screen" value={Number.isNaN(seen) ? "–" : latency(seen)} unit="median" />
      <Figure name="Agent" value={state.version || "–"} unit={state.target.split("-")[0]} />
    </dl>
  );
}
