/** Rows: each reading once in headwater.readings, whatever is killed, for who reads committed records. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { startAgent } from "./harness/agent.js";
import { Kafka } from "./harness/kafka.js";
import { Mosquitto } from "./harness/mosquitto.js";
import { Relay } from "./harness/relay.js";
import { python, repository, scenario } from "./harness/site.js";
import { Trace } from "./harness/trace.js";
import { GivenUp, until } from "./harness/until.js";

const sensors = Trace.read(join(repository, "bench/data/sensors-1hz.csv"));

/** The rows of a topic, as kafka-python reads them. */
class Rows {
  rows = [];

  constructor(site, kafka, format) {
    const script = join(repository, "tests/e2e/python/rows.py");
    const args = [script, kafka.bootstrap, "headwater.readings", format];
    this.program = site.start("rows-reader", python, args, { stdout: "pipe" });
    createInterface({ input: this.program.child.stdout }).on("line", (line) => {
      const row = JSON.parse(line);
      if (!row.ready) this.rows.push(row);
    });
  }

  of(device) {
    return this.rows.filter((row) => row.device === device);
  }

  async untilCount(device, count) {
    await until(
      `there are ${count} rows of ${device}`,
      () => {
        if (this.program.exited) throw new GivenUp("the reader of rows ended");
        const found = this.of(device).length;
        if (found >= count) return true;
        throw new Error(`there are ${found}`);
      },
      60_000,
    );
  }

  /** Each reading of the trace once, in its order, in one partition, under names that differ. */
  checkEquals(device, trace) {
    const rows = this.of(device);
    const held = {};
    for (const row of rows) {
      held[row.metric] ??= [];
      held[row.metric].push([String(row.time_us), row.bits]);
      assert.equal(row.key, device);
      assert.equal(row.partition, rows[0].partition);
    }
    assert.deepEqual(held, trace.readings);
    assert.equal(new Set(rows.map((row) => `${row.stream} ${row.seq} ${row.index}`)).size, rows.length);
  }
}

scenario("each reading is one row, whichever of two is killed, added or asleep", async (site) => {
  const [kafka, mosquitto] = await Promise.all([Kafka.start(site), Mosquitto.start(site)]);
  await Relay.start(site, { kafka, mosquitto });
  const settings = {
    rows: { commit_interval: "200ms", session_timeout: "6s" },
  };
  const makers = [];
  for (let each = 0; each < 2; each++)
    makers.push(await Relay.start(site, { kafka, mosquitto, part: "rows", settings }));
  const rows = new Rows(site, kafka, "json");
  const devices = ["a", "b", "c", "d", "e", "f"];
  const trace = sensors.slice(site, "trace.csv", 0, 1200);
  for (const device of devices) startAgent(site, { device, mosquitto, trace, speed: 60 });
  for (let kill = 0; kill < 4; kill++) {
    const maker = makers[kill % 2];
    await until("it has made rows", async () => (await maker.metric("headwater_rows_rows_total")) > 0);
    await maker.program.kill("SIGKILL");
    await maker.start();
  }
  // Asleep for longer than its session lasts, with a transaction open or about to be; then it must not commit what the other has.
  const [sleeper, other] = makers;
  sleeper.program.child.kill("SIGSTOP");
  const before = await other.metric("headwater_rows_rows_total");
  await until(
    "the other has made rows",
    async () => (await other.metric("headwater_rows_rows_total")) > before,
  );
  await new Promise((resolve) => setTimeout(resolve, 8_000));
  sleeper.program.child.kill("SIGCONT");
  for (const device of devices) await rows.untilCount(device, trace.count);
  for (const device of devices) rows.checkEquals(device, trace);
  for (const maker of makers) assert.equal((await maker.program.kill("SIGTERM")).code, 0);
});

scenario(
  "protobuf rows carry the frame of a schema registry; `run` makes them where it is asked to",
  async (site) => {
    const [kafka, mosquitto] = await Promise.all([Kafka.start(site), Mosquitto.start(site)]);
    const settings = { rows: { enabled: true, format: "protobuf", schema_id: 7 } };
    const relay = await Relay.start(site, { kafka, mosquitto, settings });
    const rows = new Rows(site, kafka, "protobuf");
    const trace = sensors.slice(site, "trace.csv", 0, 100);
    startAgent(site, { device: "gw", mosquitto, trace });
    await rows.untilCount("gw", trace.count);
    rows.checkEquals("gw", trace);
    assert.ok(rows.rows.every((row) => row.frame === "000000000700"));
    assert.equal((await relay.program.kill("SIGTERM")).code, 0);
  },
);
