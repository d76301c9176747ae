/**
 * deploy/compose without containers: its settings of Kafka, Mosquitto and the relay as they stand, but for names, ports and where files
 * lie, and the certificates and tokens that deploy/authority makes. From a device to a dashboard.
 */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { startAgent } from "./harness/agent.js";
import { DeployedMosquitto } from "./harness/deployed.js";
import { Live } from "./harness/live.js";
import { listens } from "./harness/mosquitto.js";
import { freePort } from "./harness/port.js";
import { Relay } from "./harness/relay.js";
import { binaries, repository, scenario } from "./harness/site.js";
import { Telemetry } from "./harness/telemetry.js";
import { Trace } from "./harness/trace.js";

const folder = join(repository, "deploy/compose");
const read = (file) => readFileSync(join(folder, file), "utf8");

/** Every pair's text is there, and is replaced wherever it is. */
function replaced(text, pairs) {
  return pairs.reduce((before, [from, to]) => {
    assert.ok(before.includes(from), `${from} in\n${before}`);
    return before.replaceAll(from, to);
  }, text);
}

/** Kafka with compose's server.properties, by the jars of scripts/kafka. */
async function kafkaOfCompose(site) {
  const [port, controller] = [await freePort(), await freePort()];
  const settings = replaced(read("kafka/server.properties"), [
    ["1@kafka:9093", `1@127.0.0.1:${controller}`],
    ["PLAINTEXT://kafka:9092", `PLAINTEXT://127.0.0.1:${port}`],
    ["PLAINTEXT://:9092", `PLAINTEXT://127.0.0.1:${port}`],
    ["CONTROLLER://:9093", `CONTROLLER://127.0.0.1:${controller}`],
    ["/var/lib/kafka/data", site.path("kafka-data")],
  ]);
  const file = site.write("server.properties", settings);
  const script = join(repository, "scripts/kafka");
  execFileSync(script, ["fetch"], { stdio: "ignore" });
  const version = /^version=\$\{KAFKA_VERSION:-(.+)\}$/m.exec(readFileSync(script, "utf8"))[1];
  assert.ok(
    read("compose.yml").includes(`image: apache/kafka:${version}`),
    `compose.yml runs Kafka ${version}`,
  );
  const cache = process.env.XDG_CACHE_HOME ?? join(homedir(), ".cache");
  const classes = join(cache, "headwater", `kafka-${process.env.KAFKA_VERSION ?? version}`, "*");
  const cluster = "MkU3OEVBNTcwNTJENDM2Qg";
  const tool = ["-Xmx64m", "-cp", classes, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", file];
  execFileSync("java", tool, { stdio: ["ignore", "ignore", "pipe"] });
  const program = site.start("kafka", "java", [
    "-Xmx256m",
    "-XX:+UseSerialGC",
    "-cp",
    classes,
    "kafka.Kafka",
    file,
  ]);
  await program.ready("Kafka listens", () => listens(port), 60_000);
  return { bootstrap: `127.0.0.1:${port}` };
}

scenario("what compose.yml mounts carries a reading from a device to a dashboard", async (site) => {
  const [kafka, broker] = await Promise.all([kafkaOfCompose(site), DeployedMosquitto.start(site, ["gw-01"])]);
  const [port, admin] = [await freePort(), await freePort()];
  const settings = replaced(read("relay.toml"), [
    ["0.0.0.0:9464", `127.0.0.1:${admin}`],
    ["0.0.0.0:8080", `127.0.0.1:${port}`],
    ["kafka:9092", kafka.bootstrap],
    ["mosquitto:8884", `127.0.0.1:${broker.ports.relay}`],
    ["/etc/headwater/keys/", `${broker.directory}/relay/`],
  ]);
  const relay = new Relay(site, "run", port, admin, site.write("relay.toml", settings));
  await relay.start();
  const trace = Trace.read(join(repository, "bench/data/sensors-1hz.csv")).slice(site, "trace.csv", 0, 300);
  const mosquitto = { url: `mqtts://127.0.0.1:${broker.ports.devices}` };
  startAgent(site, { device: "gw-01", mosquitto, trace, uplink: { tls: broker.files("gw-01") } });
  const telemetry = new Telemetry(site, kafka);
  await telemetry.untilCount("gw-01", trace.count);
  telemetry.checkEquals("gw-01", trace);

  // The tokens that deploy/authority signs are the gateway's; another's are not.
  const opened = (token) =>
    Live.open(site, relay.live, { protocols: ["headwater.v1", `headwater.token.${token}`] });
  const snapshot = {
    devices: ["*"],
    metrics: ["*"],
    mode: "LATEST",
    start: { case: "snapshot", value: true },
  };
  const ann = await opened(broker.authority("token", "ann", "*"));
  ann.subscribe(snapshot);
  const [{ device }] = (await ann.next("latest")).decoded;
  assert.equal(device, "gw-01");
  const elsewhere = join(site.directory, "elsewhere");
  const script = join(repository, "deploy/authority");
  execFileSync(script, ["init", elsewhere], { stdio: "pipe" });
  const forged = execFileSync(script, ["token", elsewhere, "ann", "*"], { encoding: "utf8" }).trim();
  const bob = await opened(forged);
  assert.equal((await bob.closed).code, 4401);
});

scenario("the image's root holds all that the relay needs", async (site) => {
  const image = site.path("image");
  execFileSync(join(repository, "deploy/container/root"), [join(binaries, "headwater-relay"), image]);
  const nobody = ["chroot", "--userspec=65532:65532", image];
  const [command, ...before] =
    process.getuid() === 0 ? nobody : ["unshare", "--map-root-user", "chroot", image];
  const [port, admin] = [await freePort(), await freePort()];
  const env = {
    HEADWATER_RELAY_ADMIN__LISTEN: `127.0.0.1:${admin}`,
    HEADWATER_RELAY_GATEWAY__LISTEN: `127.0.0.1:${port}`,
    // Both by names, and over TLS: what looks up names and authorities is there, too.
    HEADWATER_RELAY_MQTT__BROKER: "mqtts://localhost:1",
    HEADWATER_RELAY_KAFKA__BOOTSTRAP: "localhost:1",
  };
  const program = site.start("relay", command, [...before, "/usr/bin/headwater-relay", "run"], { env });
  await program.ready("it answers", async () => (await fetch(`http://127.0.0.1:${admin}/healthz`)).ok);
  const page = await fetch(`http://127.0.0.1:${port}/`);
  assert.match(await page.text(), /<html/i);
  assert.equal((await program.kill("SIGTERM")).code, 0);
});

scenario("the settings of deploy/kubernetes are the relay's", async (site) => {
  const broker = await DeployedMosquitto.start(site, []);
  const text = readFileSync(join(repository, "deploy/kubernetes/base/relay.toml"), "utf8");
  const settings = replaced(text, [
    ["0.0.0.0:9464", `127.0.0.1:${await freePort()}`],
    ["0.0.0.0:8080", `127.0.0.1:${await freePort()}`],
    ["kafka.kafka:9092", "127.0.0.1:1"],
    ["mosquitto.mqtt:8884", `127.0.0.1:${broker.ports.relay}`],
    ["/etc/headwater/keys/", `${broker.directory}/relay/`],
  ]);
  const config = site.write("relay.toml", settings);
  for (const part of ["bridge", "gateway"]) {
    const program = site.start(part, join(binaries, "headwater-relay"), [part, "--config", config]);
    await program.ready(`${part} has read them`, () => program.log().includes("health and metrics on"));
    await program.kill("SIGTERM");
  }
});
