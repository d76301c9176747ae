/** All devices: how they are, what they send, what waits behind them. */

import { useComputed, useSignal, useSignalEffect } from "@preact/signals";
import { useRef } from "preact/hooks";
import { agents, cuts } from "../demo";
import { beat, type Device, fleet, known, type Order, select } from "../fleet";
import { ago, count, latency, rate, short, span } from "../format";
import { now, status } from "../link";
import { href } from "../route";
import { CutStory, LinkSwitch } from "./link-switch";
import { Figure, Spark, StateDot } from "./parts";

/** More rows than a person reads are a matter for the search. */
const ROWS = 200;

const COLUMNS: { order: Order; title: string; down: boolean }[] = [
  { order: "name", title: "Device", down: false },
  { order: "state", title: "State", down: false },
  { order: "seen", title: "Last seen", down: true },
  { order: "rate", title: "Readings/s", down: true },
  { order: "waiting", title: "Waiting in the agent", down: true },
  { order: "lost", title: "Lost", down: true },
];

export function FleetView() {
  const search = useSignal("");
  const order = useSignal<Order>("name");
  const down = useSignal(false);
  const shown = useComputed(() => select(fleet.value, search.value, order.value, down.value));
  const field = useRef<HTMLInputElement>(null);

  useSignalEffect(() => {
    const focus = (event: KeyboardEvent) => {
      if (event.key !== "/" || event.target instanceof HTMLInputElement) return;
      event.preventDefault();
      field.current?.focus();
    };
    addEventListener("keydown", focus);
    return () => removeEventListener("keydown", focus);
  });

  const sort = (by: Order, first: boolean) => {
    down.value = order.value === by ? !down.value : first;
    order.value = by;
  };

  if (!known.value) return <Waiting />;
  if (fleet.value.length === 0) return <Empty />;
  const demo = agents.value !== null;
  const stories = [...cuts.value.keys()];
  return (
    <>
      <Totals all={fleet.value} />
      {demo && stories.length === 0 && (
        <p class="story hint">
          <b>This is the demo.</b> Cut a gateway's link and watch its backlog grow; restore it and watch it
          drain. No reading is lost.
        </p>
      )}
      {stories.map((device) => (
        <div class="told" key={device}>
          <a href={href({ page: "device", device, minutes: 5 })}>{device}</a>
          <CutStory device={device} />
        </div>
      ))}
      <div class="tools">
        <label class="search">
          <span class="sr">Search devices</span>
          <input
            ref={field}
            type="search"
            placeholder="Search devices   /"
            value={search.value}
            onInput={(event) => {
              search.value = event.currentTarget.value;
            }}
          />
        </label>
        <label class="sort">
          <span>Sort by</span>
          <select
            aria-label="Sort by"
            value={order.value}
            onChange={(event) => {
              const by = event.currentTarget.value as Order;
              sort(by, COLUMNS.find((column) => column.order === by)?.down ?? false);
            }}
          >
            {COLUMNS.map((column) => (
              <option key={column.order} value={column.order}>
                {column.title}
              </option>
            ))}
          </select>
        </label>
      </div>
      <table class={demo ? "fleet demo" : "fleet"}>
        <thead>
          <tr>
            {COLUMNS.map((column) => (
              <th
                key={column.order}
                class={column.order}
                scope="col"
                aria-sort={order.value === column.order ? (down.value ? "descending" : "ascending") : "none"}
              >
                <button type="button" onClick={() => sort(column.order, column.down)}>
                  {column.title}
                </button>
              </th>
            ))}
            <th class="version" scope="col">
              Version
            </th>
            {demo && (
              <th class="link" scope="col">
                Link
              </th>
            )}
          </tr>
        </thead>
        <tbody>
          {shown.value.slice(0, ROWS).map((device) => (
            <Row key={device.name} device={device} demo={demo} />
          ))}
        </tbody>
      </table>
      {shown.value.length === 0 && <p class="none">No device matches “{search.value}”.</p>}
      {shown.value.length > ROWS && (
        <p class="none">
          The first {ROWS} of {count(shown.value.length)} devices. Search to narrow them down.
        </p>
      )}
    </>
  );
}

function Row({ device, demo }: { device: Device; demo: boolean }) {
  void beat.value;
  const agent = agents.value?.get(device.name);
  const readings = agent ? agent.waiting_readings : device.waiting.readings;
  const batches = agent ? agent.waiting_batches : device.waiting.batches;
  const oldest = agent ? agent.oldest_us / 1000 : device.waiting.oldest;
  const cut = agent?.link === "down";
  const aged = oldest > 0 ? now() - oldest : 0;
  const late = aged > 10_000;
  return (
    <tr data-device={device.name} class={cut ? "cut" : device.online ? "" : "off"}>
      <td class="name">
        <a href={href({ page: "device", device: device.name, minutes: 5 })}>{device.name}</a>
        {agent && <small>{agent.kind}</small>}
      </td>
      <td class="state" data-online={device.online}>
        <StateDot online={device.online} cut={cut} />
      </td>
      <td class="seen" title={new Date(device.lastSeen).toLocaleString()}>
        {device.lastSeen > 0 ? ago(now() - device.lastSeen) : "never"}
      </td>
      <td class="rate" data-rate={device.readingsPerS}>
        <Spark values={device.trace} label={`readings a second of ${device.name} lately`} />
        <b>{rate(device.readingsPerS)}</b>
      </td>
      <td class={late ? "waiting late" : "waiting"} data-waiting={readings}>
        {batches > 0 ? (
          <>
            <b>{short(readings)}</b>
            <small>
              {count(batches)} {batches === 1 ? "batch" : "batches"}
              {late && `, since ${span(aged)}`}
            </small>
          </>
        ) : (
          // The batch being filled is not late, it is young.
          <span class="nothing">{readings > 0 ? `${count(readings)} being gathered` : "nothing"}</span>
        )}
      </td>
      <td class={device.lost > 0 ? "lost some" : "lost"}>
        {device.lost > 0 ? <b>{short(device.lost)}</b> : <span class="nothing">none</span>}
      </td>
      <td class="version" title={device.target}>
        {device.version || "–"}
        {device.target && <small>{device.target.split("-")[0]}</small>}
      </td>
      {demo && (
        <td class="link">
          <LinkSwitch device={device.name} />
        </td>
      )}
    </tr>
  );
}

function Totals({ all }: { all: readonly Device[] }) {
  const online = all.filter((device) => device.online).length;
  const readings = all.reduce((sum, device) => sum + device.readingsPerS, 0);
  // What is being gathered into a batch does not wait yet.
  const waits = all.reduce((sum, device) => {
    const agent = agents.value?.get(device.name);
    const [batches, held] = agent
      ? [agent.waiting_batches, agent.waiting_readings]
      : [device.waiting.batches, device.waiting.readings];
    return batches > 0 ? sum + held : sum;
  }, 0);
  const lost = all.reduce((sum, device) => sum + device.lost, 0);
  const lags = all.filter((device) => device.online && device.readingsPerS > 0).map((device) => device.lagMs);
  lags.sort((a, b) => a - b);
  const traces = Array.from({ length: 45 }, (_, i) =>
    all.reduce((sum, { trace }) => sum + (trace[trace.length - 45 + i] ?? Number.NaN), 0),
  ).filter((value) => !Number.isNaN(value));
  return (
    <dl class="stats">
      <Figure
        name="Devices online"
        value={count(online)}
        unit={`of ${count(all.length)}`}
        tone={online < all.length ? "warn" : ""}
      />
      <Figure
        name="Readings/s"
        value={rate(readings)}
        note={<Spark values={traces} label="readings a second lately" />}
      />
      <Figure name="Waiting in the agents" value={short(waits)} unit="readings" />
      <Figure name="Lost" value={short(lost)} unit="readings" tone={lost > 0 ? "bad" : ""} />
      <Figure
        name="Behind now"
        value={lags.length > 0 ? latency(lags[lags.length >> 1]) : "–"}
        unit="median"
      />
    </dl>
  );
}

function Waiting() {
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

function Empty() {
  return (
    <div class="page-note">
      <h2>No device yet</h2>
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
