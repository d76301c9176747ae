/** What the connection does, in figures. */

import { signal } from "@preact/signals";
import type { ComponentChildren as Children } from "preact";
import type { Feed } from "../feed";
import { bytes, count, latency, short, span } from "../format";
import { BOUNDS, type Latencies } from "../latency";
import { flow, history, now, stats, status } from "../link";
import { type Watched, watched } from "../watch";
import { Meter, Spark } from "./parts";

/** The feed of the page's charts, for latencies. */
export const currentFeed = signal<Feed | null>(null);

export function Inspector() {
  const figures = stats.value;
  const link = status.value;
  if (!figures || link.state !== "open") {
    return (
      <aside class="inspector" id="inspector" aria-label="Connection">
        <p class="none">No connection at present, so no figures.</p>
      </aside>
    );
  }
  const latencies = currentFeed.value?.latencies;
  const { wire } = figures;
  const expires = link.tokenExpiresUs / 1000;
  return (
    <aside class="inspector" id="inspector" aria-label="Connection">
      <Block title="Frames">
        <Line
          name="A second"
          value={count(flow.value.frames)}
          note={<Spark values={history.frames} label="frames a second in the last minute" />}
        />
        <Line name="In all" value={short(figures.frames)} />
        <Line name="Acknowledgements" value={short(figures.acks)} />
      </Block>
      <Block title="Bytes">
        <Line
          name="A second"
          value={bytes(flow.value.bytes)}
          note={<Spark values={history.bytes} label="bytes a second in the last minute" />}
        />
        <Line name="Decoded" value={bytes(figures.bytes)} />
        <Line
          name="On the wire"
          value={wire ? bytes(wire.bytes) : "not told"}
          note={wire && wire.decoded > 0 ? `${((wire.bytes / wire.decoded) * 100).toFixed(0)} %` : undefined}
          bar={
            wire &&
            wire.decoded > 0 && <Meter share={wire.bytes / wire.decoded} label="on the wire, of decoded" />
          }
        />
        <Line name="Compression" value={figures.compressed ? "permessage-deflate" : "none agreed"} />
      </Block>
      <Block title="Ack window">
        <Line
          name="Frames"
          value={`${count(figures.unacked.frames)} of ${count(figures.window.frames)}`}
          bar={
            <Meter
              share={figures.unacked.frames / Math.max(1, figures.window.frames)}
              label="frames unacknowledged"
              tone="warm"
            />
          }
        />
        <Line
          name="Bytes"
          value={`${bytes(figures.unacked.bytes)} of ${bytes(figures.window.bytes)}`}
          bar={
            <Meter
              share={figures.unacked.bytes / Math.max(1, figures.window.bytes)}
              label="bytes unacknowledged"
              tone="warm"
            />
          }
        />
      </Block>
      <Block title="Time">
        <Line
          name="Round trip"
          value={figures.roundTripMs === null ? "–" : latency(figures.roundTripMs)}
          note={<Spark values={history.roundTrip} label="round trips of the last minute" />}
        />
        <Line
          name="Sample → screen"
          value={latencies && latencies.length > 0 ? latency(latencies.quantile(0.5)) : "open a device"}
          note={latencies && latencies.length > 0 ? `p99 ${latency(latencies.quantile(0.99))}` : undefined}
          bar={latencies && latencies.length > 0 && <Histogram latencies={latencies} />}
        />
        <Line
          name="Clocks apart"
          value={figures.clockOffsetMs === null ? "–" : latency(Math.abs(figures.clockOffsetMs))}
        />
      </Block>
      <Block title="Session">
        <Line name="Relay" value={link.server} />
        <Line name="As" value={link.subject || "anyone (no keys set)"} />
        {expires > 0 && <Line name="Token ends" value={`in ${span(expires - now())}`} />}
        <Line name="Partitions" value={count(link.partitions)} />
        <Line name="Connections made" value={count(figures.connections)} />
      </Block>
      <Block title="Subscriptions">
        {[...watched].map(([subscription, each]) => (
          <Line
            key={subscription.id}
            name={`${each.mode} · ${each.what}`}
            value={short(each.frames)}
            note={told(each)}
          />
        ))}
      </Block>
    </aside>
  );
}

function told({ caughtUp, mode, bucket, asked, merged, frames }: Watched): string {
  if (bucket > asked && asked > 0) return `widened to ${latency(bucket)}`;
  if (mode === "all" || mode === "series") return caughtUp ? "live" : "catching up";
  return merged > frames ? `${short(merged)} merged` : "";
}

function Histogram({ latencies }: { latencies: Latencies }) {
  const counts = latencies.histogram();
  const most = Math.max(...counts, 1);
  const bound = (at: number) =>
    at < BOUNDS.length ? `< ${latency(BOUNDS[at])}` : `≥ ${latency(BOUNDS[BOUNDS.length - 1])}`;
  return (
    <div
      class="histogram"
      role="img"
      aria-label={counts.map((each, at) => `${bound(at)}: ${each}`).join(", ")}
    >
      {counts.map((each, at) => (
        <i key={bound(at)} title={`${bound(at)}: ${count(each)}`}>
          <b style={`height:${(each / most) * 100}%`} />
        </i>
      ))}
      <span>{latency(BOUNDS[0])}</span>
      <span>{latency(BOUNDS[BOUNDS.length - 1])}</span>
    </div>
  );
}

function Block({ title, children }: { title: string; children: Children }) {
  return (
    <section>
      <h2>{title}</h2>
      <dl>{children}</dl>
    </section>
  );
}

/** `bar`: drawn below, over the whole width. */
function Line({ name, value, note, bar }: { name: string; value: string; note?: Children; bar?: Children }) {
  return (
    <div>
      <dt title={name}>{name}</dt>
      <dd>
        {value}
        {note && <small>{note}</small>}
      </dd>
      {bar && <dd class="bar">{bar}</dd>}
    </div>
  );
}
