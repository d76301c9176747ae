/** From the sensor to Kafka: what an agent sampled is what Kafka holds. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { startAgent } from "./harness/agent.js";
import { Kafka } from "./harness/kafka.js";
import { Mosquitto } from "./harness/mosquitto.js";
import { Relay } from "./harness/relay.js";
import { repository, scenario } from "./harness/site.js";
import { Telemetry } from "./harness/telemetry.js";
import { Trace } from "./harness/trace.js";

const sensors = Trace.read(join(repository, "bench/data/sensors-1hz.csv"));
const machine = Trace.read(join(repository, "bench/data/nab-machine-temp.csv"));

scenario("Kafka holds what the agents sampled, once, in order, bit for bit", async (site) => {
  const [kafka, mosquitto] = await Promise.all([Kafka.start(site), Mosquitto.start(site)]);
  await Relay.start(site, { kafka, mosquitto });
  const telemetry = new Telemetry(site, kafka);
  // Different traces, encodings and sizes of batches, at the same time.
  const devices = [
    ["hall-1", sensors, { batch: { readings: 80 } }],
    ["hall-2", sensors, { batch: { readings: 4000 }, uplink: { encoding: "protobuf", compression: "none" } }],
    ["mill:7_b.x-y", machine, { batch: { readings: 480 }, uplink: { encoding: "protobuf" } }],
    ["one", sensors.slice(site, "one.csv", 0, 1), { uplink: { compression: "none" } }],
  ];
  for (const [device, trace, settings] of devices)
    startAgent(site, { device, mosquitto, trace, ...settings });
  for (const [device, trace] of devices) {
    await telemetry.untilCount(device, trace.count);
    telemetry.checkEquals(device, trace);
    assert.equal(telemetry.checkChain(device).length, 1, "one start of the agent, one stream");
  }
});

scenario("an agent that starts long before the relay loses nothing", async (site) => {
  const mosquitto = await Mosquitto.start(site);
  const trace = sensors.slice(site, "trace.csv", 0, 600);
  const agent = startAgent(site, { device: "early", mosquitto, trace });
  await agent.ready("the agent has connected", () =>
    /\bconnected to/.test(agent.log().replaceAll("not connected", "")),
  );
  const kafka = await Kafka.start(site);
  await Relay.start(site, { kafka, mosquitto });
  const telemetry = new Telemetry(site, kafka);
  await telemetry.untilCount("early", trace.count);
  telemetry.checkEquals("early", trace);
});

scenario("an agent that starts before the broker loses nothing", async (site) => {
  const [kafka, mosquitto] = await Promise.all([Kafka.start(site), Mosquitto.start(site)]);
  await mosquitto.kill();
  const trace = sensors.slice(site, "trace.csv", 0, 600);
  const agent = startAgent(site, { device: "first", mosquitto, trace });
  const relay = await Relay.prepare(site, { kafka, mosquitto });
  relay.launch();
  await agent.ready("the agent has tried in vain", () => /refused/i.test(agent.log()));
  await mosquitto.start();
  await relay.untilReady();
  const telemetry = new Telemetry(site, kafka);
  await telemetry.untilCount("first", trace.count);
  telemetry.checkEquals("first", trace);
});

scenario("a restarted agent opens a new stream and ends the old one", async (site) => {
  const [kafka, mosquitto] = await Promise.all([Kafka.start(site), Mosquitto.start(site)]);
  await Relay.start(site, { kafka, mosquitto });
  const telemetry = new Telemetry(site, kafka);
  const halves = [sensors.slice(site, "a.csv", 0, 300), sensors.slice(site, "b.csv", 300, 600)];
  const both = sensors.slice(site, "both.csv", 0, 600);
  const first = startAgent(site, { device: "twice", mosquitto, trace: halves[0] });
  await telemetry.untilCount("twice", halves[0].count);
  assert.equal((await first.kill("SIGTERM")).code, 0, "the agent stops cleanly");
  startAgent(site, { device: "twice", mosquitto, trace: halves[1] });
  await telemetry.untilCount("twice", both.count);
  telemetry.checkEquals("twice", both);
  assert.equal(telemetry.checkChain("twice").length, 2);
});
