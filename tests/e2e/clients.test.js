/** Clients of the live channel that share no code with ours: Python's websockets and Node's ws. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { startAgent } from "./harness/agent.js";
import { Kafka } from "./harness/kafka.js";
import { Live } from "./harness/live.js";
import { Mosquitto } from "./harness/mosquitto.js";
import { Relay } from "./harness/relay.js";
import { python, repository, scenario } from "./harness/site.js";
import { Telemetry } from "./harness/telemetry.js";
import { Trace } from "./harness/trace.js";
import { until } from "./harness/until.js";
import { WireTap } from "./harness/wiretap.js";

const sensors = Trace.read(join(repository, "bench/data/sensors-1hz.csv"));

async function path(site) {
  const [kafka, mosquitto] = await Promise.all([Kafka.start(site), Mosquitto.start(site)]);
  const relay = await Relay.start(site, { kafka, mosquitto });
  return { kafka, mosquitto, relay, tap: await WireTap.start(site, relay.port) };
}

/** The Python client; what it prints arrives in `events`. */
function pythonClient(site, asked) {
  const script = join(repository, "tests/e2e/python/live.py");
  const program = site.start("python-client", python, [script, JSON.stringify(asked)], { stdout: "pipe" });
  const events = [];
  createInterface({ input: program.child.stdout }).on("line", (line) => events.push(JSON.parse(line)));
  const of = (kind) => events.filter((event) => event.kind === kind);
  const heard = (kind) => program.ready(`the Python client has ${kind}`, () => of(kind).length > 0);
  return { program, events, of, heard };
}

/** metric → readings of all data frames of a device, in order. */
function joined(frames) {
  const all = {};
  for (const frame of frames) {
    for (const [metric, column] of Object.entries(frame.columns)) {
      all[metric] ??= [];
      all[metric].push(...column.readings);
    }
  }
  return all;
}

const count = (frames) => Object.values(joined(frames)).reduce((sum, column) => sum + column.length, 0);

/** Permessage-deflate was agreed, and data frames went over the wire compressed: fewer bytes than they hold. */
function checkCompressed(tap, extensions, decodedBytes) {
  assert.match(extensions, /permessage-deflate/);
  const data = tap.frames.filter((frame) => frame.opcode === 2);
  const compressed = data.filter((frame) => frame.compressed);
  assert.ok(compressed.length > data.length / 2, `${compressed.length} of ${data.length} frames compressed`);
  if (decodedBytes)
    assert.ok(tap.bytes < decodedBytes, `${tap.bytes} bytes on the wire for ${decodedBytes} decoded`);
}

scenario("Python websockets: mode ALL has every reading, in order, bit for bit, compressed", async (site) => {
  const { mosquitto, tap } = await path(site);
  const client = pythonClient(site, { url: tap.url, devices: ["py-*"] });
  await client.heard("subscribed");
  assert.equal(client.of("open")[0].subprotocol, "headwater.v1");
  startAgent(site, { device: "py-1", mosquitto, trace: sensors, batch: { readings: 480 } });
  startAgent(site, { device: "other", mosquitto, trace: sensors.slice(site, "other.csv", 0, 10) });
  await client.program.ready(
    "the Python client has all readings",
    () => count(client.of("data")) >= sensors.count,
  );
  assert.deepEqual(joined(client.of("data")), sensors.readings);
  assert.ok(
    client.of("data").every((frame) => frame.device === "py-1"),
    "only the devices asked for",
  );
  checkCompressed(tap, client.of("open")[0].extensions);
});

scenario("ws: mode ALL has every reading, in order, bit for bit, compressed", async (site) => {
  const { mosquitto, tap } = await path(site);
  const client = await Live.open(site, tap.url);
  await client.next("welcome");
  client.subscribe({ devices: ["node-*"] });
  await client.next("subscribed");
  startAgent(site, { device: "node-1", mosquitto, trace: sensors, batch: { readings: 480 } });
  const frames = () => client.of("data").map((data) => data.decoded);
  await client.until("ws has all readings", () => count(frames()) >= sensors.count, 60_000);
  assert.deepEqual(joined(frames()), sensors.readings);
  checkCompressed(tap, client.socket.extensions, client.bytesTotal);
});

scenario("ws without deflate gets the same in plain frames", async (site) => {
  const { mosquitto, tap } = await path(site);
  const client = await Live.open(site, tap.url, { deflate: false });
  client.subscribe({ devices: ["plain"] });
  await client.next("subscribed");
  const trace = sensors.slice(site, "trace.csv", 0, 600);
  startAgent(site, { device: "plain", mosquitto, trace });
  const frames = () => client.of("data").map((data) => data.decoded);
  await client.until("ws has all readings", () => count(frames()) >= trace.count);
  assert.deepEqual(joined(frames()), trace.readings);
  assert.equal(client.socket.extensions, "");
  assert.ok(tap.frames.every((frame) => !frame.compressed));
});

scenario(
  "a metric filter leaves the other columns out; LATEST has the newest value; PRESENCE the device",
  async (site) => {
    const { kafka, mosquitto, relay } = await path(site);
    const url = relay.live;
    const filtered = await Live.open(site, url);
    filtered.subscribe({ devices: ["dev"], metrics: ["*_temp_c"] });
    await filtered.next("subscribed");
    const trace = sensors.slice(site, "trace.csv", 0, 100);
    startAgent(site, { device: "dev", mosquitto, trace });
    const telemetry = new Telemetry(site, kafka);
    await telemetry.untilCount("dev", trace.count);

    const { cabinet_temp_c, outside_temp_c } = trace.readings;
    const frames = () => filtered.of("data").map((data) => data.decoded);
    await filtered.until("all of two metrics", () => count(frames()) >= 200);
    assert.deepEqual(joined(frames()), { cabinet_temp_c, outside_temp_c });

    // Who comes later gets the current state as a snapshot.
    const expected = Object.entries(trace.readings).map(([metric, column]) => [metric, column.at(-1)]);
    const latest = await Live.open(site, url);
    latest.subscribe({ mode: "LATEST", devices: ["dev"], start: { case: "snapshot", value: true } });
    const newest = () => {
      const values = latest
        .of("latest")
        .flatMap((frame) => frame.decoded.flatMap((batch) => Object.entries(batch.columns)));
      return new Map(values.map(([metric, column]) => [metric, column.readings.at(-1)]));
    };
    await latest.until("LATEST has every metric", () => newest().size === expected.length);
    assert.deepEqual([...newest()].sort(), expected.sort());

    const fleet = await Live.open(site, url);
    fleet.subscribe({ mode: "PRESENCE", start: { case: "snapshot", value: true } });
    const devices = () => fleet.of("presence").flatMap((frame) => frame.devices);
    await fleet.until("PRESENCE shows the device on line", () =>
      devices().some((device) => device.device === "dev" && device.online),
    );
  },
);

scenario("a client that does not acknowledge gets no more than its window, then everything", async (site) => {
  const { kafka, mosquitto, relay } = await path(site);
  const client = await Live.open(site, relay.live, {
    hello: { window: { frames: 5, bytes: 1n << 20n } },
    acks: false,
  });
  client.subscribe({ devices: ["slow"] });
  await client.next("subscribed");
  const trace = sensors.slice(site, "trace.csv", 0, 600);
  startAgent(site, { device: "slow", mosquitto, trace });
  const telemetry = new Telemetry(site, kafka);
  await telemetry.untilCount("slow", trace.count);
  // All is in Kafka, and five frames are on their way. A ping's answer comes after whatever the relay has sent before.
  await client.until("the window is full", () => client.framesTotal === 5);
  client.send("ping", { nonce: 1n });
  await client.next("pong");
  assert.equal(client.framesTotal, 5);
  client.acks = true;
  client.ack();
  const frames = () => client.of("data").map((data) => data.decoded);
  await until("ws has all readings", () => count(frames()) >= trace.count);
  assert.deepEqual(joined(frames()), trace.readings);
});
