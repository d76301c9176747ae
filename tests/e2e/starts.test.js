/**
 * Where a subscription of mode ALL starts, on Apache Kafka and under load: at a snapshot, at a time, at a cursor so old that Kafka alone has what lies
 * behind it. What a client gets is compared with what Kafka holds, read by code that is not ours: each batch once, in order, from its beginning on.
 */

import assert from "node:assert/strict";
import { join } from "node:path";
import { startAgent } from "./harness/agent.js";
import { Follower } from "./harness/follower.js";
import { Kafka } from "./harness/kafka.js";
import { Mosquitto } from "./harness/mosquitto.js";
import { Relay } from "./harness/relay.js";
import { shard } from "./harness/shard.js";
import { repository, scenario } from "./harness/site.js";
import { Telemetry } from "./harness/telemetry.js";
import { Trace } from "./harness/trace.js";
import { until } from "./harness/until.js";

const whole = Trace.read(join(repository, "bench/data/sensors-1hz.csv"));
// In all four partitions.
const DEVICES = ["east", "west", "north", "south", "mill", "reef"];
const SILENT = "buoy";
// 1,500 s of readings in 6 s.
const ROWS = 1500;
const SPEED = 250;

const at = (kind, value) => ({ at: { case: kind, value } });
const snapshot = at("snapshot", true);
const cursor = (positions) =>
  at("cursor", {
    positions: positions.map(([partition, offset]) => ({ partition, offset: BigInt(offset) })),
  });

/** A record as Kafka has it and as it came, in the same words. */
const named = ({ partition, offset, device, stream, seq, columns }) => ({
  place: `${partition}/${offset}`,
  batch: `${device} ${stream} ${seq}`,
  columns,
});

/** partition → these, in the order they came in. */
function byPartition(records) {
  const partitions = new Map();
  for (const record of records) {
    if (!partitions.has(record.partition)) partitions.set(record.partition, []);
    partitions.get(record.partition).push(named(record));
  }
  return partitions;
}

/** What came is all that Kafka holds of what `belongs`, each batch once, in the order of its partition. */
async function checkData(what, follower, telemetry, belongs) {
  const expected = telemetry.records.filter(belongs);
  assert.ok(expected.length > 0, what);
  await until(`${what} has its ${expected.length} batches`, () => {
    if (follower.batches.length >= expected.length) return true;
    throw new Error(`it has ${follower.batches.length}`);
  });
  const [came, held] = [byPartition(follower.batches), byPartition(expected)];
  for (const [partition, records] of held)
    assert.deepEqual(came.get(partition), records, `${what}, partition ${partition}`);
  assert.equal(follower.batches.length, expected.length, what);
  assert.deepEqual(follower.gaps, [], what);
}

/** The newest values are those of what Kafka holds before the follower's beginning, each device once, and before all data. */
function checkSnapshot(what, follower, telemetry, devices) {
  const before = ({ partition, offset }) => offset < follower.began.get(partition);
  for (const device of devices) {
    const earlier = telemetry.of(device).filter(before);
    const expected = {};
    for (const { columns } of earlier)
      for (const [metric, column] of Object.entries(columns))
        expected[metric] = { ...column, readings: [column.readings.at(-1)] };
    const parts = follower.snapshot.filter((batch) => batch.device === device);
    assert.equal(parts.length, 1, `${what}: ${device} once`);
    const [{ columns, seq, stream, marked, after }] = parts;
    assert.deepEqual(columns, expected, `${what}: newest values of ${device} before the cursor`);
    assert.deepEqual([stream, seq], [earlier.at(-1).stream, earlier.at(-1).seq]);
    assert.ok(marked && after === 0, `${what}: the snapshot comes first, and says that it is one`);
  }
  assert.equal(follower.snapshot.length, devices.length, what);
}

scenario("a snapshot, a time and old cursors run into live without hole or repeat", underLoad, {
  limit: 240_000,
});

async function underLoad(site) {
  assert.equal(new Set(DEVICES.map((device) => shard(device) % 4)).size, 4, "all partitions are in use");
  const [kafka, mosquitto] = await Promise.all([Kafka.start(site), Mosquitto.start(site)]);
  // So small that it holds some seconds at most, and begins with next to nothing.
  const settings = { gateway: { log: "64 KiB", log_backfill: 10 } };
  const relay = await Relay.start(site, { kafka, mosquitto, settings });
  const telemetry = new Telemetry(site, kafka);
  const follow = async (subscribe) => {
    const follower = new Follower(site, { id: 1, mode: "ALL", ...subscribe });
    await follower.follow(relay);
    return follower;
  };
  const sensors = whole.slice(site, "sensors.csv", 0, ROWS);
  const few = whole.slice(site, "few.csv", 0, 30);
  startAgent(site, { device: SILENT, mosquitto, trace: few });
  await telemetry.untilCount(SILENT, few.count);
  for (const device of DEVICES) startAgent(site, { device, mosquitto, trace: sensors, speed: SPEED });
  const reached = (share) => telemetry.untilCount(DEVICES[0], Math.floor(sensors.count * share));

  const snapshots = [];
  await reached(0.15);
  snapshots.push(await follow({ start: snapshot }));
  await reached(0.3);
  // While all goes on: a time long past, one of just now, and cursors of which memory knows nothing any more.
  const times = [];
  for (const record of [telemetry.records[100], telemetry.records.at(-1)]) {
    const value = BigInt(record.timestamp_ms) * 1000n;
    times.push([record.timestamp_ms, await follow({ start: at("timeUs", value) })]);
  }
  const every = [0, 1, 2, 3].map((partition) => [partition, 0]);
  const oldest = await follow({ start: cursor(every) });
  const middle = [0, 1, 2, 3].map((partition) => {
    const offsets = telemetry.records.filter((record) => record.partition === partition);
    return [partition, offsets[Math.floor(offsets.length / 3)].offset];
  });
  const older = await follow({ start: cursor(middle) });
  // In the partitions that a cursor leaves out it starts at the end.
  const partial = await follow({ start: cursor([middle[1]]) });
  const one = await follow({ devices: ["west"], start: snapshot });
  for (const share of [0.45, 0.6]) {
    await reached(share);
    snapshots.push(await follow({ start: snapshot }));
  }

  for (const device of DEVICES) await telemetry.untilCount(device, sensors.count);
  await telemetry.untilEnd();
  for (const device of DEVICES) telemetry.checkEquals(device, sensors);
  const since = (follower) => (record) => record.offset >= follower.began.get(record.partition);
  for (const [round, follower] of snapshots.entries()) {
    const what = `snapshot ${round}`;
    await checkData(what, follower, telemetry, since(follower));
    checkSnapshot(what, follower, telemetry, [SILENT, ...DEVICES]);
  }
  await checkData("one device", one, telemetry, (record) => record.device === "west" && since(one)(record));
  checkSnapshot("one device", one, telemetry, ["west"]);
  for (const [ms, follower] of times)
    await checkData(`from ${ms}`, follower, telemetry, (record) => record.timestamp_ms >= ms);
  await checkData("the oldest cursor", oldest, telemetry, () => true);
  for (const [what, follower, positions] of [
    ["an old cursor", older, middle],
    ["a cursor of one partition", partial, [middle[1]]],
  ]) {
    for (const [partition, offset] of positions)
      assert.equal(follower.began.get(partition), BigInt(offset), what);
    await checkData(what, follower, telemetry, since(follower));
  }
  for (const follower of [...snapshots, one, oldest, older, partial, ...times.map(([, timed]) => timed)])
    assert.ok(follower.caughtUp > 0, "it was told that it is live");
  assert.ok((await relay.metric("headwater_gateway_catch_up_reads_total")) > 0, "Kafka was read");
}
