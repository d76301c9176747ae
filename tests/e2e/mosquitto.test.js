/** deploy/mosquitto: the access rules keep devices apart and let the whole path work. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { copyFileSync, readFileSync } from "node:fs";
import { join } from "node:path";
import mqtt from "mqtt";
import { startAgent } from "./harness/agent.js";
import { Kafka } from "./harness/kafka.js";
import { listens } from "./harness/mosquitto.js";
import { freePort } from "./harness/port.js";
import { Relay } from "./harness/relay.js";
import { repository, scenario } from "./harness/site.js";
import { Telemetry } from "./harness/telemetry.js";
import { Trace } from "./harness/trace.js";

const folder = join(repository, "deploy/mosquitto");
const PASSWORD = "not a secret";

/** Mosquitto with deploy/mosquitto's files as they stand, but for the port and where they lie. */
async function deployed(site, users) {
  const port = await freePort();
  const passwords = site.write("headwater.passwd", "");
  for (const user of users) {
    execFileSync("mosquitto_passwd", ["-b", passwords, user, PASSWORD], { stdio: "ignore" });
  }
  copyFileSync(join(folder, "headwater.acl"), site.path("headwater.acl"));
  const text = readFileSync(join(folder, "headwater.conf"), "utf8")
    .replaceAll("/etc/mosquitto/headwater", site.path("headwater"))
    .replace(/^listener 1883$/m, `listener ${port} 127.0.0.1`);
  const root = process.getuid() === 0 ? "user root\n" : "";
  const config = site.write("mosquitto.conf", `${root}persistence false\n${text}`);
  const program = site.start("mosquitto", "mosquitto", ["-c", config], {
    env: { PATH: `${process.env.PATH}:/usr/sbin` },
  });
  await program.ready(`Mosquitto listens on ${port}`, () => listens(port));
  return { program, port, url: `mqtt://127.0.0.1:${port}` };
}

scenario("a device can neither speak nor listen for another", async (site) => {
  const broker = await deployed(site, ["headwater-relay", "gw-01", "gw-02"]);
  const login = (username) =>
    mqtt.connectAsync(broker.url, { username, password: PASSWORD, reconnectPeriod: 0 });
  const [relay, first, second] = [await login("headwater-relay"), await login("gw-01"), await login("gw-02")];
  for (const client of [relay, first, second]) site.onClose(() => client.endAsync(true));
  const heard = { relay: [], second: [] };
  relay.on("message", (topic, payload) => heard.relay.push(`${topic} ${payload}`));
  second.on("message", (topic, payload) => heard.second.push(`${topic} ${payload}`));
  await relay.subscribeAsync("hw1/+/+/data");
  await second.subscribeAsync(["hw1/+/+/ack", "hw1/+/+/data", "#"]);

  // One connection's messages stay in order, so what is heard last says that all before it has been judged.
  await first.publishAsync("hw1/1/gw-02/data", "as another", { qos: 1 });
  await first.publishAsync("hw1/1/gw-01/ack", "as the relay", { qos: 1 });
  await first.publishAsync("hw1/1/gw-01/data", "its own", { qos: 1 });
  await relay.publishAsync("hw1/1/gw-01/ack", "for another", { qos: 1 });
  await relay.publishAsync("hw1/1/gw-02/ack", "for it", { qos: 1 });
  await broker.program.ready("both have heard", () => heard.relay.length > 0 && heard.second.length > 0);
  assert.deepEqual(heard.relay, ["hw1/1/gw-01/data its own"]);
  assert.deepEqual(heard.second, ["hw1/1/gw-02/ack for it"]);
  await assert.rejects(mqtt.connectAsync(broker.url, { reconnectPeriod: 0 }), /not authori[sz]ed/i);
});

scenario("the whole path works under these rules", async (site) => {
  const [kafka, broker] = await Promise.all([
    Kafka.start(site),
    deployed(site, ["headwater-relay", "gw-01"]),
  ]);
  const password_file = site.write("password", `${PASSWORD}\n`);
  await Relay.start(site, {
    kafka,
    mosquitto: broker,
    settings: { mqtt: { user: "headwater-relay", password_file } },
  });
  const trace = Trace.read(join(repository, "bench/data/sensors-1hz.csv")).slice(site, "trace.csv", 0, 300);
  startAgent(site, { device: "gw-01", mosquitto: broker, trace, uplink: { user: "gw-01", password_file } });
  const telemetry = new Telemetry(site, kafka);
  await telemetry.untilCount("gw-01", trace.count);
  telemetry.checkEquals("gw-01", trace);
});
