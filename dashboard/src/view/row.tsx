/** One device in the fleet's table. */

import { agents } from "../demo";
import { backlogAge, beat, type Device, find } from "../fleet";
import { ago, count, latency, rate, short, span } from "../format";
import { now } from "../link";
import { deviceHref } from "../route";
import { LinkSwitch } from "./link-switch";
import { Spark, StateDot } from "./parts";

export interface RowProps {
  name: string;
  /** Its place, from 0. */
  at: number;
  demo: boolean;
  active: boolean;
  chosen: boolean;
  /** No more can be chosen. */
  full: boolean;
  choose: (name: string) => void;
}

export function rowId(at: number): string {
  return `row-${at}`;
}

export function Row({ name, at, demo, active, chosen, full, choose }: RowProps) {
  void beat.value;
  const device = find(name);
  if (!device) return null;
  const agent = agents.value?.get(name);
  const cut = agent?.link === "down";
  return (
    <tr
      id={rowId(at)}
      data-device={name}
      class={`${cut ? "cut" : device.online ? "" : "off"}${active ? " active" : ""}`}
      aria-rowindex={at + 2}
      aria-selected={chosen}
    >
      <td class="pick">
        <input
          type="checkbox"
          aria-label={`Choose ${name} to compare`}
          checked={chosen}
          disabled={full && !chosen}
          onChange={() => choose(name)}
        />
      </td>
      <td class="name">
        <a href={deviceHref(name)}>{name}</a>
        {agent && <small>{agent.kind}</small>}
      </td>
      <td class="state" data-online={device.online}>
        <StateDot online={device.online} cut={cut} />
      </td>
      <td class="seen" title={new Date(device.lastSeen).toLocaleString()}>
        {device.lastSeen > 0 ? ago(now() - device.lastSeen) : "never"}
      </td>
      <td class="rate" data-rate={device.readingsPerS}>
        <Spark values={device.trace} label={`readings a second of ${name} lately`} />
        <b>{rate(device.readingsPerS)}</b>
      </td>
      <Backlog device={device} />
      <td class={device.lost > 0 ? "lost some" : "lost"}>
        {device.lost > 0 ? <b>{short(device.lost)}</b> : <span class="nothing">none</span>}
      </td>
      <td
        class="up"
        title={`${device.online ? "up" : "down"} since ${new Date(device.since).toLocaleString()}`}
      >
        {device.online && device.readingsPerS > 0 ? <b>{latency(device.lagMs)}</b> : null}
        <small>
          {device.since > 0 ? `${device.online ? "up" : "down"} ${span(now() - device.since)}` : "–"}
        </small>
      </td>
      <td class="version" title={device.target}>
        {device.version || "–"}
        {device.target && <small>{device.target.split("-")[0]}</small>}
      </td>
      {demo && (
        <td class="link">
          <LinkSwitch device={name} />
        </td>
      )}
    </tr>
  );
}

/** What waits in the agent: how long the oldest has, and how much it is. */
function Backlog({ device }: { device: Device }) {
  const agent = agents.value?.get(device.name);
  const waiting = agent
    ? { readings: agent.waiting_readings, batches: agent.waiting_batches, oldest: agent.oldest_us / 1000 }
    : device.waiting;
  const { batches, readings } = waiting;
  const age = backlogAge({ ...device, waiting: { ...device.waiting, ...waiting } }, now());
  return (
    <td class={age > 0 ? "waiting late" : "waiting"} data-waiting={readings}>
      {age > 0 ? (
        <>
          <b>{span(age)}</b>
          <small>{short(readings)} readings</small>
        </>
      ) : (
        // The batch being filled is not late, it is young.
        <span class="nothing">
          {batches > 0
            ? `${short(readings)} on the way`
            : readings > 0
              ? `${count(readings)} gathered`
              : "nothing"}
        </span>
      )}
    </td>
  );
}
