/**
 * deploy/compose without a container engine: its settings of Kafka, Mosquitto, the relay and the enrolment endpoint as they stand, but for
 * names and ports, with the mounts and users of compose.yml, and the certificates and tokens that deploy/authority makes. From a card to a
 * dashboard, and to the list of those who are locked out.
 */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, renameSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { Container } from "./harness/compose.js";
import { DeployedMosquitto } from "./harness/deployed.js";
import { Machine } from "./harness/enrolment.js";
import { Live } from "./harness/live.js";
import { listens } from "./harness/mosquitto.js";
import { freePort } from "./harness/port.js";
import { binaries, repository, scenario } from "./harness/site.js";
import { Telemetry } from "./harness/telemetry.js";
import { Trace } from "./harness/trace.js";
import { until } from "./harness/until.js";

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

/** A command as Dockerfile writes it. */
const words = (command) => `[${command.map((word) => JSON.stringify(word)).join(", ")}]`;

/** Runs deploy/authority. */
function authority(command, directory, ...args) {
  const script = join(repository, "deploy/authority");
  return execFileSync(script, [command, directory, ...args], { encoding: "utf8", stdio: "pipe" }).trim();
}

scenario(
  "compose.yml's services enrol a device, carry its readings to a dashboard, and turn it away once it is revoked",
  async (site) => {
    const kafka = await kafkaOfCompose(site);
    const names = ["mosquitto", "relay", "admin", "devices", "field", "enroll", "enrollAdmin"];
    const ports = {};
    for (const name of names) ports[name] = await freePort();

    // Steps of deploy/README.md: keys, and whose they are. (127.0.0.1 is every name here.)
    const keys = site.path("authority");
    authority("init", keys);
    authority("broker", keys, "mosquitto", "127.0.0.1");
    authority("endpoint", keys, "127.0.0.1");
    const readme = readFileSync(join(repository, "deploy/README.md"), "utf8");
    const owners = Array.from(readme.matchAll(/^chown -R (\d+:\d+) +(.+)$/gm));
    assert.equal(owners.length, 2);
    for (const [, owner, folders] of process.getuid() === 0 ? owners : []) {
      const places = folders.split(" ").map((place) => place.replace("compose/authority", keys));
      execFileSync("chown", ["-R", owner, ...places]);
    }
    // From here on the key is nowhere but with the endpoint.
    renameSync(join(keys, "private"), site.path("private"));

    const image = site.path("image");
    execFileSync(join(repository, "deploy/container/root"), [join(binaries, "headwater-relay"), image]);
    const entrypoint = ["/usr/bin/headwater-relay"];
    const cmd = ["run", "--config", "/etc/headwater/relay.toml"];
    const dockerfile = readFileSync(join(repository, "deploy/container/Dockerfile"), "utf8");
    assert.ok(
      dockerfile.endsWith(`ENTRYPOINT ${words(entrypoint)}\nCMD ${words(cmd)}\n`),
      "the image's command",
    );
    const written = (name, text, pairs) => site.write(name, replaced(text, pairs));
    const relayToml = written("relay.toml", read("relay.toml"), [
      ["0.0.0.0:9464", `127.0.0.1:${ports.admin}`],
      ["0.0.0.0:8080", `127.0.0.1:${ports.relay}`],
      ["kafka:9092", kafka.bootstrap],
      ["mosquitto:8884", `127.0.0.1:${ports.mosquitto}`],
    ]);
    const enrollToml = written("enroll.toml", read("enroll.toml"), [
      ["0.0.0.0:9464", `127.0.0.1:${ports.enrollAdmin}`],
      ["0.0.0.0:8443", `127.0.0.1:${ports.enroll}`],
      ["https://mqtt.example.org:8443", `https://127.0.0.1:${ports.enroll}`],
      ["mqtts://mqtt.example.org:8883", `mqtts://127.0.0.1:${ports.devices}`],
    ]);
    const conf = written(
      "certificates.conf",
      readFileSync(join(repository, "deploy/mosquitto/certificates.conf"), "utf8"),
      [
        ["listener 8883\n", `listener ${ports.devices} 127.0.0.1\n`],
        ["listener 8884\n", `listener ${ports.mosquitto} 127.0.0.1\n`],
      ],
    );
    const settings = "/etc/headwater/relay.toml";
    const start = {
      // Debian's Mosquitto, with a /etc/mosquitto of its own.
      mosquitto: () => {
        const files = { "/etc/mosquitto/certificates.conf": conf };
        return Container.start(site, "mosquitto", {
          authority: keys,
          files,
          root: "/",
          own: "/etc/mosquitto",
        });
      },
      relay: () => {
        const files = { [settings]: relayToml };
        return Container.start(site, "relay", { authority: keys, files, root: image, entrypoint, cmd });
      },
      enroll: () => {
        const files = { [settings]: enrollToml };
        return Container.start(site, "enroll", { authority: keys, files, root: image, entrypoint, cmd });
      },
    };
    let mosquitto = start.mosquitto();
    await mosquitto.program.ready("Mosquitto listens", () => listens(ports.devices));
    const ready = (port) => async () => (await fetch(`http://127.0.0.1:${port}/readyz`)).ok;
    const [relay, enroll] = [start.relay(), start.enroll()];
    await relay.program.ready("the relay is ready", ready(ports.admin));
    await enroll.program.ready("the endpoint is ready", ready(ports.enrollAdmin));

    // Cards, as deploy/README.md makes them.
    const fleet = (...args) => [...entrypoint, "fleet", ...args, "--config", settings];
    const provision = /fleet (provision .*) --config (\S+) <\S+ \| tar -x -C/.exec(readme);
    assert.equal(provision?.[2], settings);
    const trace = Trace.read(join(repository, "bench/data/sensors-1hz.csv")).slice(site, "trace.csv", 0, 300);
    const boxes = `[[source]]\ntype = "replay"\npath = "${trace.path}"\nspeed = "max"\nat_end = "stop"\ntimes = "original"\n`;
    const making = fleet(...provision[1].replaceAll("'", "").replace("--count 50", "--count 2").split(" "));
    const cards = site.path("cards");
    const unpack = (archive) => {
      mkdirSync(cards, { recursive: true, mode: 0o700 });
      execFileSync("tar", ["-x", "-C", cards], { input: archive });
    };
    const lost = enroll.exec(making, boxes);
    assert.throws(() => enroll.exec(making, boxes), /gw-001 is known already/);
    unpack(enroll.exec([...making, "--replace"], boxes));
    assert.deepEqual(readdirSync(cards).sort(), ["gw-001", "gw-002", "labels.csv"]);
    const card = (name) => join(cards, name, "headwater.toml");
    const machines = ["gw-001", "gw-002"].map((name) => new Machine(site, name, card(name)));
    // The first archive was lost, and whoever has it has nothing.
    unpack(lost);
    const finder = new Machine(site, "finder", card("gw-002"));
    assert.equal(await finder.boot(0), 1);
    assert.match(finder.read("boot/headwater.error.txt"), /this token is not known/);
    for (const machine of machines) {
      assert.equal(await machine.boot(), 0, machine.read("boot/headwater.error.txt"));
      machine.run();
    }
    const telemetry = new Telemetry(site, kafka);
    for (const { name } of machines) {
      await telemetry.untilCount(name, trace.count);
      telemetry.checkEquals(name, trace);
    }

    // The tokens that deploy/authority signs are the gateway's; another's are not.
    renameSync(site.path("private"), join(keys, "private"));
    const opened = (token) =>
      Live.open(site, `ws://127.0.0.1:${ports.relay}/v1/live`, {
        protocols: ["headwater.v1", `headwater.token.${token}`],
      });
    const snapshot = {
      devices: ["*"],
      metrics: ["*"],
      mode: "LATEST",
      start: { case: "snapshot", value: true },
    };
    const ann = await opened(authority("token", keys, "ann", "gw-001"));
    ann.subscribe(snapshot);
    const [{ device }] = (await ann.next("latest")).decoded;
    assert.equal(device, "gw-001");
    const elsewhere = site.path("elsewhere");
    authority("init", elsewhere);
    const bob = await opened(authority("token", elsewhere, "ann", "*"));
    assert.equal((await bob.closed).code, 4401);

    // Lost: Mosquitto has the list by its mount, and after a restart the box is out, and stays out.
    const list = join(keys, "revoked/devices.crl");
    const listed = () => {
      const text = execFileSync("openssl", ["crl", "-in", list, "-noout", "-text"], { encoding: "utf8" });
      return Array.from(text.matchAll(/Serial Number: (\w+)/g), ([, serial]) => serial);
    };
    const umask = process.umask(0o077);
    assert.match(enroll.exec(fleet("revoke", "gw-001")).toString(), /gw-001 is revoked: 1 certificate/);
    process.umask(umask);
    const [first, second] = machines;
    assert.deepEqual(listed(), [first.serial()]);
    await mosquitto.program.kill("SIGTERM");
    const marks = machines.map((machine) => machine.program.log().length);
    const since = (n) => machines[n].program.log().slice(marks[n]);
    mosquitto = start.mosquitto();
    await until("the broker has turned it away", () => /revoked/.test(since(0)));
    await until("the other one is back", () => /connected/.test(since(1)));
    assert.ok(!/revoked/.test(since(1)), since(1));
    // What is revoked by hand joins the list, which stays the endpoint's to write.
    authority("device", keys, "by-hand");
    authority("revoke", keys, "by-hand");
    const both = listed();
    assert.ok(both.length === 2 && both.includes(first.serial()), both.join());
    assert.equal(enroll.exec(fleet("crl")).toString().trim().split("\n")[0], "-----BEGIN X509 CRL-----");
    enroll.exec(fleet("revoke", "gw-002"));
    assert.deepEqual(listed().sort(), [...both, second.serial()].sort());
    for (const machine of machines) await machine.program.kill("SIGTERM");
    for (const { program } of [relay, enroll]) assert.equal((await program.kill("SIGTERM")).code, 0);
  },
  { limit: 240_000 },
);

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
  const endpoint = readFileSync(join(repository, "deploy/kubernetes/base/enroll.toml"), "utf8");
  const admin = await freePort();
  const ofEndpoint = replaced(endpoint, [
    ["0.0.0.0:9464", `127.0.0.1:${admin}`],
    ["0.0.0.0:8443", `127.0.0.1:${await freePort()}`],
    ["/etc/headwater/keys/", `${broker.directory}/enroll/`],
    ["/var/lib/headwater-relay/", `${site.directory}/`],
  ]);
  const parts = { bridge: config, gateway: config, "enroll-server": site.write("enroll.toml", ofEndpoint) };
  for (const [part, file] of Object.entries(parts)) {
    const program = site.start(part, join(binaries, "headwater-relay"), [part, "--config", file]);
    await program.ready(`${part} has read them`, () => program.log().includes("health and metrics on"));
    if (part === "enroll-server") {
      await program.ready("it is ready", async () => (await fetch(`http://127.0.0.1:${admin}/readyz`)).ok);
    }
    await program.kill("SIGTERM");
  }
});
