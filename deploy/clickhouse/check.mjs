/**
 * Runs this folder's SQL on real records: readings of all types, a lost one among them, go from agents through Mosquitto and the relay (bridge and
 * rows) into Kafka; then check.py makes the table of both ways, which have to be equal, and equal to what was sampled.
 *
 *   python3 -m venv /tmp/chdb && /tmp/chdb/bin/pip install chdb kafka-python lz4
 *   cargo build --workspace --bins
 *   HEADWATER_CHDB=/tmp/chdb/bin/python HEADWATER_PYTHON=.venv/bin/python node deploy/clickhouse/check.mjs
 *
 * Not a part of scripts/test: chdb is 900 MB. Run with chdb 4.4.0, which is ClickHouse 26.9.
 */

import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { create, toBinary } from "@bufbuild/protobuf";
import { startAgent } from "../../tests/e2e/harness/agent.js";
import { batch } from "../../tests/e2e/harness/contract.js";
import { Kafka } from "../../tests/e2e/harness/kafka.js";
import { Mosquitto } from "../../tests/e2e/harness/mosquitto.js";
import { Relay } from "../../tests/e2e/harness/relay.js";
import { repository, scenario } from "../../tests/e2e/harness/site.js";
import { Trace } from "../../tests/e2e/harness/trace.js";
import { until } from "../../tests/e2e/harness/until.js";

const { BatchSchema, LossReason } = batch;

/** What agents seldom send: every type of values, runs, factors, exceptions, suspects, and readings that were given up. */
function odd() {
  const times = [
    { first: 1_700_000_000n, unitUs: 1_000_000n, count: 4, deltas: [1n, 2n], runs: [2, 1] },
    { first: 1_700_000_000_000_000n, count: 2, deltas: [5n] },
  ];
  const values = (name, value) => ({ case: name, value });
  const scaled = {
    scale: 1,
    factor: 5n,
    deltas: [41n, 1n, -1n, 0n],
    exceptionAt: [3],
    exceptions: [Number.NaN],
  };
  const columns = [
    { metric: "scaled", unit: "Cel", times: 0, values: values("scaled", scaled), suspect: [1] },
    { metric: "ints", times: 1, values: values("ints", { deltas: [10n, -13n] }) },
    {
      metric: "strings",
      times: 1,
      values: values("strings", { dictionary: ["on", "off"], indices: [1, 0] }),
    },
    { metric: "bools", times: 1, values: values("bools", { values: [true, false] }) },
    { metric: "doubles", times: 1, values: values("doubles", { values: [0.1, Number.NEGATIVE_INFINITY] }) },
  ];
  const stream = 0xfedcba9876543210n;
  const lost = { through: 9n, readings: 70n, reason: LossReason.JOURNAL_FULL };
  return [
    create(BatchSchema, { device: "odd", stream, seq: 1n, times, columns, clock: batch.Clock.UNCERTAIN }),
    create(BatchSchema, { device: "odd", stream, seq: 2n, loss: lost }),
  ].map((message) => Buffer.from(toBinary(BatchSchema, message)).toString("hex"));
}
const ODD_ROWS = 13;

for (const format of ["json", "protobuf"])
  scenario(
    `the table by rows (${format}) and the table by batches are equal, and what was sampled`,
    async (site) => {
      const [kafka, mosquitto] = await Promise.all([Kafka.start(site), Mosquitto.start(site)]);
      const relay = await Relay.start(site, {
        kafka,
        mosquitto,
        settings: { rows: { enabled: true, format } },
      });
      const sensors = Trace.read(join(repository, "bench/data/sensors-1hz.csv"));
      const trace = sensors.slice(site, "trace.csv", 0, 1000);
      const chdb = process.env.HEADWATER_CHDB ?? "python3";
      const check = (...args) =>
        execFileSync(chdb, [join(import.meta.dirname, "check.py"), kafka.bootstrap, ...args], {
          encoding: "utf8",
          maxBuffer: 1 << 28,
        });
      check("produce", ...odd());
      startAgent(site, { device: "a", mosquitto, trace });
      const all = trace.count + ODD_ROWS;
      const made = () => relay.metric("headwater_rows_rows_total");
      await until("all rows are made", async () => (await made()) >= all, 60_000);
      const rows = check(format)
        .trimEnd()
        .split("\n")
        .map((line) => JSON.parse(line));
      for (const [metric, readings] of Object.entries(trace.readings)) {
        const held = rows
          .filter((row) => row.device === "a" && row.metric === metric)
          .map((row) => [String(row.time_us), row.bits]);
        if (String(held) !== String(readings)) throw new Error(`${metric}: not what was sampled`);
      }
      if (rows.length !== all) throw new Error(`${rows.length} rows, not ${all}`);
      console.log(`${rows.length} rows, the same both ways, and bit for bit what was sampled`);
      for (const row of rows.filter((row) => row.device === "odd"))
        console.log(
          `${row.metric} ${row.time_us} ${row.bits || "-"} ${row.text} suspect ${row.suspect} uncertain ${row.uncertain} ${row.index} ${row.loss}`,
        );
    },
    { limit: 300_000 },
  );
