/** What the connection does, in figures. */

import { signal } from "@preact/signals";
import { type Feed, quantile } from "../device";
import { bytes, count, latency, short } from "../format";
import { flow, history, stats, status } from "../link";
import { Meter, Spark } from "./parts";

/** The device view's feed, for latencies. */
export const currentFeed = signal<Feed | null>(null);

export function Inspector() {
  const now = stats.value;
  const link = status.value;
  if (!now || link.state !== "open") {
    return (
      <aside class="inspector" id="inspector" aria-label="Connection">
        <p class="none">No connection at present, so no figures.</p>
      </aside>
    );
  }
  const latencies = currentFeed.value?.latencies ?? [];
  const wire = now.wire;
  return (
    <aside class="inspector" id="inspector" aria-label="Connection">
      <Block title="Frames">
        <Line name="A second" value={count(flow.value.frames)} />
        <Line name="In all" value={short(now.frames)} />
        <Line name="Acknowledgements" value={short(now.acks)} />
      </Block>
      <Block title="Bytes">
        <Line name="Decoded" value={bytes(now.bytes)} />
        <Line
          name="On the wire"
          value={wire ? bytes(wire.bytes) : "not told"}
          note={wire && wire.decoded > 0 ? `${((wire.bytes / wire.decoded) * 100).toFixed(0)} %` : undefined}
        />
        {wire && wire.decoded > 0 && (
          <Meter share={wire.bytes / wire.decoded} label="on the wire, of decoded" />
        )}
        <Line name="Compression" value={now.compressed ? "permessage-deflate" : "none agreed"} />
      </Block>
      <Block title="Ack window">
        <Line name="Frames" value={`${count(now.unacked.frames)} of ${count(now.window.frames)}`} />
        <Meter
          share={now.unacked.frames / Math.max(1, now.window.frames)}
          label="frames unacknowledged"
          tone="warm"
        />
        <Line name="Bytes" value={`${bytes(now.unacked.bytes)} of ${bytes(now.window.bytes)}`} />
        <Meter
          share={now.unacked.bytes / Math.max(1, now.window.bytes)}
          label="bytes unacknowledged"
          tone="warm"
        />
      </Block>
      <Block title="Time">
        <Line
          name="Round trip"
          value={now.roundTripMs === null ? "–" : latency(now.roundTripMs)}
          note={<Spark values={history.roundTrip} label="round trips of the last minute" />}
        />
        <Line
          name="Sample → screen"
          value={latencies.length > 0 ? latency(quantile(latencies, 0.5)) : "open a device"}
          note={latencies.length > 0 ? `p99 ${latency(quantile(latencies, 0.99))}` : undefined}
        />
        <Line
          name="Clocks apart"
          value={now.clockOffsetMs === null ? "–" : latency(Math.abs(now.clockOffsetMs))}
        />
      </Block>
      <Block title="Session">
        <Line name="Relay" value={link.server} />
        <Line name="As" value={link.subject || "anyone (no keys set)"} />
        <Line name="Partitions" value={count(link.partitions)} />
        <Line name="Connections made" value={count(now.connections)} />
      </Block>
    </aside>
  );
}

function Block({ title, children }: { title: string; children: preact.ComponentChildren }) {
  return (
    <section>
      <h2>{title}</h2>
      <dl>{children}</dl>
    </section>
  );
}

function Line({ name, value, note }: { name: string; value: string; note?: preact.ComponentChildren }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>
        {value}
        {note && <small>{note}</small>}
      </dd>
    </div>
  );
}
