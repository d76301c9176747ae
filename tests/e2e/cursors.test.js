/**
 * Cursors of what Apache Kafka does not hold, or holds no longer: taken by retention, of a topic that was deleted and made anew, of the future, of partitions
 * that there are none of. Each is answered with a gap, or an error that says what is wrong; then live goes on, there and for everybody else.
 */

import assert from "node:assert/strict";
import { Follower } from "./harness/follower.js";
import { Kafka } from "./harness/kafka.js";
import { Live } from "./harness/live.js";
import { Relay } from "./harness/relay.js";
import { shard } from "./harness/shard.js";
import { scenario } from "./harness/site.js";
import { put, topics } from "./harness/topics.js";
import { until } from "./harness/until.js";

const TOPIC = "headwater.telemetry";
// The first is in partition 0, the next in partition 1, …
const DEVICES = ["mill", "west", "east", "south"];
const PARTITIONS = DEVICES.map((_, partition) => partition);

const cursor = (partition, offset) => ({
  at: { case: "cursor", value: { positions: [{ partition, offset: BigInt(offset) }] } },
});

async function gatewayWith(site) {
  assert.deepEqual(
    DEVICES.map((device) => shard(device) % DEVICES.length),
    PARTITIONS,
  );
  const kafka = await Kafka.start(site);
  // Little is in memory at the start: most cursors lie before it.
  const settings = { gateway: { log_backfill: 5 } };
  const relay = await Relay.start(site, { kafka, part: "gateway", settings });
  const follow = async (subscribe, window) => {
    const follower = new Follower(site, { id: 1, mode: "ALL", ...subscribe });
    await follower.follow(relay, window);
    return follower;
  };
  return { kafka, relay, follow };
}

/** Waits until the follower has as many batches of each device as this, and has them in order, at these offsets. */
async function checkBatches(what, follower, device, offsets) {
  await until(
    `${what} has ${offsets.length} batches of ${device}`,
    () => {
      const count = follower.of(device).length;
      if (count >= offsets.length) return true;
      throw new Error(`it has ${count}, and gaps ${follower.gaps.map(described)}`);
    },
    60_000,
  );
  assert.deepEqual(
    follower.of(device).map(({ offset }) => offset),
    offsets,
    `${what}: ${device}`,
  );
}

const range = (from, to) => Array.from({ length: to - from }, (_, index) => from + index);
const REASONS = ["UNSPECIFIED", "RETENTION", "UNREADABLE", "RESET"];
const described = ({ partition, fromOffset, toOffset, reason }) =>
  `${partition}: ${fromOffset}..${toOffset} ${REASONS[reason]}`;

scenario(
  "cursors of what retention took, of the future, of other partitions",
  async (site) => {
    const { kafka, relay, follow } = await gatewayWith(site);
    put(kafka, 1, 20, DEVICES);
    const witness = await follow({});
    topics(kafka, "truncate", TOPIC, 1, 12);

    const late = await follow({ start: cursor(1, 3) });
    await checkBatches("a cursor of what retention took", late, "west", range(12, 20));
    const future = await follow({ start: cursor(2, 10_000) });
    await checkBatches("a cursor of the future", future, "east", range(0, 20));
    const furthest = await follow({ devices: ["east"], start: cursor(2, (1n << 63n) - 1n) });
    await checkBatches("the last cursor there can be", furthest, "east", range(0, 20));
    const end = await follow({ devices: ["east"], start: cursor(2, 20) });

    const stranger = await Live.open(site, relay.live);
    stranger.subscribe({ id: 4, start: cursor(9, 0).at });
    const error = await stranger.next("error");
    assert.equal(error.id, 4);
    assert.match(error.message, /partition 9.*there are 4/);
    stranger.subscribe({ id: 4 });
    await stranger.next("subscribed");

    put(kafka, 21, 22, DEVICES);
    await checkBatches("a cursor of what retention took", late, "west", range(12, 22));
    await checkBatches("a cursor of the future", future, "east", range(0, 22));
    await checkBatches("the last cursor there can be", furthest, "east", range(0, 22));
    await checkBatches("a cursor at the end", end, "east", range(20, 22));
    await stranger.until("who asked for another partition is served", () => stranger.of("data").length >= 8);
    for (const device of DEVICES) await checkBatches("the witness", witness, device, range(20, 22));
    assert.deepEqual(late.gaps.map(described), ["1: 3..12 RETENTION"]);
    assert.deepEqual(future.gaps.map(described), ["2: 10000..0 RESET"]);
    assert.deepEqual(furthest.gaps.map(described), [`2: ${(1n << 63n) - 1n}..0 RESET`]);
    assert.deepEqual(end.gaps, []);
    assert.deepEqual(witness.gaps, []);
  },
  { limit: 240_000 },
);

scenario(
  "the topic is deleted under the gateway and made anew",
  async (site) => {
    const { kafka, relay, follow } = await gatewayWith(site);
    put(kafka, 1, 20, DEVICES);
    const open = await follow({});
    // Its window is closed: it has not moved when the new log is already longer than the old one was.
    const paused = await follow({}, { frames: 0, bytes: 0n });
    const presence = await Live.open(site, relay.live);
    presence.subscribe({ mode: "PRESENCE" });
    await presence.next("subscribed");

    topics(kafka, "delete", TOPIC);
    const waiting = await Live.open(site, relay.live);
    await relay.program.ready("it says that it is not ready", async () => {
      return !(await fetch(`${relay.admin}/readyz`)).ok;
    });
    waiting.subscribe({ start: cursor(0, 20).at });
    for (const client of [open.live, presence]) {
      client.send("ping", { nonce: 1n });
      await client.next("pong");
    }
    topics(kafka, "create", TOPIC, DEVICES.length);
    put(kafka, 1, 40, DEVICES);
    await relay.untilReady();
    await waiting.until(
      "who came while there was no topic is told",
      () => waiting.of("subscribed").length > 0,
      60_000,
    );
    paused.live.ack(0, 0, { frames: 64, bytes: 1n << 20n });
    const old = await follow({ devices: ["east"], start: cursor(2, 500) });
    await checkBatches("a cursor of the old topic", old, "east", range(0, 40));
    for (const [what, follower] of [
      ["who watched", open],
      ["who had a closed window", paused],
    ]) {
      for (const device of DEVICES) await checkBatches(what, follower, device, range(0, 40));
      const gaps = PARTITIONS.map((partition) => `${partition}: 20..0 RESET`);
      assert.deepEqual(follower.gaps.map(described).sort(), gaps, what);
    }
    put(kafka, 41, 42, DEVICES);
    for (const device of DEVICES) await checkBatches("who watched", open, device, range(0, 42));
    await checkBatches("a cursor of the old topic", old, "east", range(0, 42));
    assert.deepEqual(old.gaps.map(described), ["2: 500..0 RESET"]);
    assert.equal(presence.close, undefined, "others are served on");
  },
  { limit: 240_000 },
);

scenario(
  "Kafka is away under the gateway and comes back: nothing missing, nothing twice",
  async (site) => {
    const { kafka, relay, follow } = await gatewayWith(site);
    put(kafka, 1, 20, DEVICES);
    const witness = await follow({});
    await kafka.stop();
    await relay.program.ready("it says that it is not ready", async () => {
      return !(await fetch(`${relay.admin}/readyz`)).ok;
    });
    // What is in memory is served; what is not is waited for, and that is said.
    const old = await follow({ devices: ["east"], start: cursor(2, 0) });
    await old.live.until(
      "it is told that Kafka is waited for",
      () => old.live.of("error").length > 0,
      60_000,
    );
    assert.match(old.live.of("error")[0].message, /Kafka cannot be read just now.*trying again/);
    witness.live.send("ping", { nonce: 1n });
    await witness.live.next("pong");
    await kafka.start();
    await relay.untilReady();
    put(kafka, 21, 22, DEVICES);
    await checkBatches("who came meanwhile", old, "east", range(0, 22));
    for (const device of DEVICES) await checkBatches("the witness", witness, device, range(20, 22));
    for (const follower of [witness, old]) assert.deepEqual(follower.gaps, []);
  },
  { limit: 240_000 },
);
