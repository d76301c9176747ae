/** The demo's switch on a gateway's link, and the story of what a cut does. */

import { useSignal } from "@preact/signals";
import { agents, cuts, lost, setLink } from "../demo";
import { count, span } from "../format";
import { now } from "../link";

export function LinkSwitch({ device }: { device: string }) {
  const agent = agents.value?.get(device);
  const failure = useSignal("");
  if (!agent) return null;
  const up = agent.link === "up";
  const flip = async () => {
    failure.value = (await setLink(device, !up)) ?? "";
  };
  return (
    <>
      <button
        type="button"
        class={up ? "switch" : "switch cut"}
        role="switch"
        aria-checked={up}
        aria-label={`Link of ${device}`}
        data-link={device}
        onClick={flip}
      >
        <i aria-hidden="true" />
        <span>{up ? "Cut the link" : "Restore the link"}</span>
      </button>
      {failure.value && <span class="failure">{failure.value}</span>}
    </>
  );
}

/** What just happens to a device whose link was cut; nothing otherwise. */
export function CutStory({ device }: { device: string }) {
  const cut = cuts.value.get(device);
  const agent = agents.value?.get(device);
  if (!cut || !agent) return null;
  const waits = count(agent.waiting_readings);
  if (cut.phase === "down") {
    return (
      <p class="story down" role="status">
        <b>The link is cut.</b> The gateway goes on sampling and keeps every batch until Kafka has it: {waits}{" "}
        readings wait, the oldest for {span(agent.oldest_us > 0 ? now() - agent.oldest_us / 1000 : 0)}.
        Restore the link, and watch them drain into the chart.
      </p>
    );
  }
  if (cut.phase === "draining") {
    return (
      <p class="story draining" role="status">
        <b>The link is back.</b> The backlog drains in order: {waits} of {count(cut.most)} readings still
        wait.
      </p>
    );
  }
  const gone = lost(device) - cut.lostBefore;
  if (gone > 0) {
    return (
      <p class="story bad" role="status">
        <b>{count(gone)} readings were given up:</b> the agent's journal was full. A loss record stands in
        their place, and the chart marks it.
      </p>
    );
  }
  return (
    <p class="story drained" role="status">
      <b>Nothing was lost.</b> All {count(cut.most)} readings that waited have been acknowledged, each once,
      and stand in the chart where they belong.
    </p>
  );
}
