/** What the fleet adds up to; three of the figures lead to the devices behind them. */

import { totals as sums, trace } from "../fleet";
import { count, latency, rate, short } from "../format";
import { type FleetRoute, href } from "../route";
import { Figure, Spark } from "./parts";

export function Totals({ all, here }: { all: number; here: FleetRoute }) {
  const { online, readingsPerS, waiting, backlog, lost, losing, lagMs } = sums.value;
  const to = (show: FleetRoute["show"]) => href({ ...here, show: here.show === show ? "all" : show });
  return (
    <dl class="stats">
      <Figure
        name="Devices online"
        value={count(online)}
        unit={`of ${count(all)}`}
        tone={online < all ? "warn" : ""}
        aside={
          online < all && (
            <a href={to("offline")} aria-current={here.show === "offline" ? "true" : undefined}>
              {count(all - online)} offline
            </a>
          )
        }
      />
      <Figure
        name="Readings/s"
        value={rate(readingsPerS)}
        note={<Spark values={trace} label="readings a second lately" />}
      />
      <Figure
        name="Waiting in the agents"
        value={short(waiting)}
        unit="readings"
        tone={backlog > 0 ? "warn" : ""}
        aside={
          backlog > 0 && (
            <a href={to("backlog")} aria-current={here.show === "backlog" ? "true" : undefined}>
              {count(backlog)} behind
            </a>
          )
        }
      />
      <Figure
        name="Lost"
        value={short(lost)}
        unit="readings"
        tone={lost > 0 ? "bad" : ""}
        aside={
          losing > 0 && (
            <a href={to("lost")} aria-current={here.show === "lost" ? "true" : undefined}>
              {count(losing)} {losing === 1 ? "device" : "devices"}
            </a>
          )
        }
      />
      <Figure name="Behind now" value={Number.isNaN(lagMs) ? "–" : latency(lagMs)} unit="median" />
    </dl>
  );
}
