/** Two boxes under one name, as after an SD card was cloned: everybody says so, and no data is mixed up, lost or repeated. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { startAgent } from "./harness/agent.js";
import { Kafka } from "./harness/kafka.js";
import { Mosquitto } from "./harness/mosquitto.js";
import { Relay } from "./harness/relay.js";
import { repository, scenario } from "./harness/site.js";
import { Telemetry } from "./harness/telemetry.js";
import { Trace } from "./harness/trace.js";
import { until } from "./harness/until.js";

const DEVICE = "twin";
const sensors = Trace.read(join(repository, "bench/data/sensors-1hz.csv"));

async function started(site) {
  const [kafka, mosquitto] = await Promise.all([Kafka.start(site), Mosquitto.start(site)]);
  const relay = await Relay.start(site, { kafka, mosquitto });
  return { kafka, mosquitto, relay, telemetry: new Telemetry(site, kafka) };
}

/** Two agents of one name, each with half of the trace. */
function twins(site, mosquitto, options = {}) {
  const halves = [sensors.slice(site, "first.csv", 0, 1800), sensors.slice(site, "second.csv", 1800, 3600)];
  const agents = halves.map((trace, index) => {
    const uplink = options.uplink?.[index];
    return startAgent(site, { device: DEVICE, name: `box-${index}`, mosquitto, trace, speed: 100, uplink });
  });
  return { halves, agents };
}

/** The streams' readings are those of the halves, each whole and in order, in one stream. */
function checkHalves(telemetry, halves) {
  telemetry.checkChain(DEVICE);
  const streams = new Map();
  for (const record of telemetry.of(DEVICE)) {
    const columns = streams.get(record.stream) ?? {};
    streams.set(record.stream, columns);
    for (const [metric, { readings }] of Object.entries(record.columns)) {
      columns[metric] = [...(columns[metric] ?? []), ...readings];
    }
  }
  assert.equal(streams.size, halves.length, "a stream for each box");
  const first = (columns) => columns[Object.keys(halves[0].readings)[0]][0][0];
  const held = [...streams.values()].sort((a, b) => (BigInt(first(a)) < BigInt(first(b)) ? -1 : 1));
  for (const [index, half] of halves.entries()) {
    for (const [metric, expected] of Object.entries(half.readings)) {
      assert.equal(String(held[index][metric]), String(expected), `${metric} of box ${index}`);
    }
  }
}

/** Both boxes and the bridge name the other. */
async function told({ agents, relay }) {
  for (const agent of agents) {
    await until(`${agent.name} says that there is another box`, () =>
      /another box uses this device's name: host ".+", boot .+, process [0-9a-f]{16}/.test(agent.log()),
    );
  }
  assert.match(relay.program.log(), /2 boxes use this device's name: host .*process .*host .*process/);
  assert.ok((await relay.metric("headwater_bridge_shared_names_total")) >= 1);
}

scenario("two boxes with one client id take the connection from each other", async (site) => {
  const { mosquitto, relay, telemetry } = await started(site);
  const { halves, agents } = twins(site, mosquitto);
  await telemetry.untilCount(DEVICE, sensors.count);
  checkHalves(telemetry, halves);
  await told({ agents, relay });
  const taken = agents.map((agent) => agent.log().split("not connected to").length - 1);
  assert.ok(Math.min(...taken) >= 3, `connections taken: ${taken}`);
});

scenario("two boxes with client ids of their own are connected at once", async (site) => {
  const { mosquitto, relay, telemetry } = await started(site);
  const uplink = [{ client_id: "box-0" }, { client_id: "box-1" }];
  const { halves, agents } = twins(site, mosquitto, { uplink });
  await telemetry.untilCount(DEVICE, sensors.count);
  checkHalves(telemetry, halves);
  await told({ agents, relay });
});
