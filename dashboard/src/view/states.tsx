/** What the page says when there is nothing to show, and why. */

import { status } from "../link";

export function Waiting() {
  const { state } = status.value;
  if (state === "closed" || state === "waiting") return <div class="page-note quiet" />;
  return (
    <div class="page-note" role="status">
      <span class="pulse" aria-hidden="true" />
      <p>{state === "open" ? "Looking the fleet over…" : "Connecting to the relay…"}</p>
    </div>
  );
}

const AGENT = `# agent.toml
device = "gw-01"

[uplink]
broker = "mqtt://your-broker:1883"

[[source]]
type = "system"     # this machine's own CPU, memory, disks, network

$ headwater-agent run --config agent.toml`;

export function Empty() {
  return (
    <div class="page-note">
      <h1>No device yet</h1>
      <p>
        The relay is here and listens; no agent has said hello. On a machine with sensors (or this one, for a
        try):
      </p>
      <pre>
        <code>{AGENT}</code>
      </pre>
      <p>It appears here within seconds. Nothing has to be set up for it on this side.</p>
    </div>
  );
}
