/** Each part of the path killed or stopped under load: nothing lost, nothing repeated. */

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
const DEVICES = ["east", "west", "north"];
// 3,600 s of readings in 18 s, 10 s of them in a batch: 20 batches a second from each device.
const SPEED = 200;

async function underLoad(site, disturb) {
  const [kafka, mosquitto] = await Promise.all([Kafka.start(site), Mosquitto.start(site)]);
  const relay = await Relay.start(site, { kafka, mosquitto });
  const telemetry = new Telemetry(site, kafka);
  for (const device of DEVICES) startAgent(site, { device, mosquitto, trace: sensors, speed: SPEED });
  await disturb({ kafka, mosquitto, relay, telemetry });
  for (const device of DEVICES) {
    await telemetry.untilCount(device, sensors.count);
    telemetry.checkEquals(device, sensors);
    assert.equal(telemetry.checkChain(device).length, 1, "one start of the agent, one stream");
  }
  return { relay, telemetry };
}

/** Waits until Kafka holds this share of the first device's readings. */
function reached(telemetry, share) {
  return telemetry.untilCount(DEVICES[0], Math.floor(sensors.count * share));
}

scenario("the relay killed with -9 four times", (site) =>
  underLoad(site, async ({ relay, telemetry }) => {
    for (const share of [0.1, 0.3, 0.5, 0.7]) {
      await reached(telemetry, share);
      await relay.program.kill("SIGKILL");
      await relay.start();
    }
  }),
);

scenario("the relay stopped with SIGTERM ends with code 0 and goes on where it was", (site) =>
  underLoad(site, async ({ relay, telemetry }) => {
    await reached(telemetry, 0.3);
    assert.equal((await relay.program.kill("SIGTERM")).code, 0);
    await relay.start();
  }),
);

scenario("Mosquitto, without persistence, killed with -9 three times", (site) =>
  underLoad(site, async ({ mosquitto, telemetry }) => {
    for (const share of [0.1, 0.3, 0.5]) {
      await reached(telemetry, share);
      await mosquitto.kill();
      await mosquitto.start();
    }
  }),
);

scenario("Kafka stopped and started again", (site) =>
  underLoad(site, async ({ kafka, relay, telemetry }) => {
    await reached(telemetry, 0.3);
    const held = telemetry.count(DEVICES[0]);
    await kafka.stop();
    // Nothing is acknowledged while Kafka is away, and the relay lives on.
    await relay.program.ready(
      "the relay says that it is not ready",
      async () => !(await fetch(`${relay.admin}/readyz`)).ok,
    );
    assert.ok((await fetch(`${relay.admin}/healthz`)).ok, "alive all the same");
    await kafka.start();
    await relay.untilReady();
    assert.ok(telemetry.count(DEVICES[0]) >= held);
  }),
);

scenario("relay, Mosquitto and Kafka, one after the other", (site) =>
  underLoad(site, async ({ kafka, mosquitto, relay, telemetry }) => {
    await reached(telemetry, 0.2);
    await relay.program.kill("SIGKILL");
    await mosquitto.kill();
    await kafka.stop();
    await mosquitto.start();
    await kafka.start();
    await relay.start();
  }),
);

scenario("a relay that waits for Kafka stops at once when told to", async (site) => {
  const [kafka, mosquitto] = await Promise.all([Kafka.start(site), Mosquitto.start(site)]);
  await kafka.stop();
  const relay = await Relay.prepare(site, { kafka, mosquitto });
  relay.launch();
  const readyz = async () => (await fetch(`${relay.admin}/readyz`)).status;
  await relay.program.ready("it says that it is not ready", async () => (await readyz()) === 503);
  assert.ok((await fetch(`${relay.admin}/healthz`)).ok, "alive all the same");
  const begun = performance.now();
  assert.equal((await relay.program.kill("SIGTERM")).code, 0);
  assert.ok(performance.now() - begun < 3000, `it took ${performance.now() - begun} ms`);
});
