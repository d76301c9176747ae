/** Foreign devices: what others publish by their own rules is in Kafka, and only then the broker forgets it. */

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout } from "node:timers/promises";
import { promisify } from "node:util";
import mqtt from "mqtt";
import { EdgeNode } from "./harness/edgenode.js";
import { Kafka } from "./harness/kafka.js";
import { Live } from "./harness/live.js";
import { Mosquitto } from "./harness/mosquitto.js";
import { Relay } from "./harness/relay.js";
import { python, repository, scenario } from "./harness/site.js";
import { Telemetry } from "./harness/telemetry.js";
import { until } from "./harness/until.js";

const run = promisify(execFile);
const topics = join(repository, "tests/e2e/python/topics.py");

/** zigbee2mqtt, as its guide describes "MQTT Topics and Messages". */
const zigbee = {
  id: "zigbee",
  topics: ["zigbee2mqtt/+"],
  except: ["zigbee2mqtt/bridge"],
  device: "z:{2}",
  map: { time: "/last_seen", units: { temperature: "Cel" } },
  availability: [{ topic: "zigbee2mqtt/+/availability", device: "z:{2}", value: "/state" }],
};

/** Tasmota, as its documentation describes "MQTT" and "JSON Status Responses". */
const tasmota = {
  id: "tasmota",
  topics: ["tele/+/SENSOR", "tele/+/STATE"],
  device: "{2}",
  map: { time: "/Time", utc_offset: "+01:00", booleans: { ON: true, OFF: false } },
  availability: [{ topic: "tele/+/LWT", device: "{2}" }],
};

const lines = { id: "influx", topics: ["telegraf/#"], device: "{tag:host}", map: { format: "influx" } };
const values = { id: "values", topics: ["plain/#"], device: "{2}", map: { format: "value" } };

/** Someone who publishes, with MQTT.js. */
async function publisher(site, mosquitto) {
  const client = await mqtt.connectAsync(mosquitto.url, { protocolVersion: 5 });
  site.onClose(() => client.endAsync(true));
  return (topic, payload, options = {}) => {
    const bytes = typeof payload === "string" || Buffer.isBuffer(payload) ? payload : JSON.stringify(payload);
    return client.publishAsync(topic, bytes, { qos: 1, ...options });
  };
}

/** What the record of a metric's readings says: doubles as numbers, other values as they are. */
function valuesOf(telemetry, device, metric) {
  const columns = telemetry.of(device).map((record) => record.columns[metric]);
  return columns
    .filter((column) => column !== undefined)
    .flatMap((column) => column.readings.map(([, value]) => (column.type === "f64" ? double(value) : value)));
}

function double(bits) {
  return Buffer.from(bits, "hex").readDoubleBE();
}

/** The records of a topic, as they are. */
function records(site, kafka, topic) {
  const script = join(repository, "tests/e2e/python/records.py");
  const program = site.start("records", python, [script, kafka.bootstrap, topic], { stdout: "pipe" });
  const all = [];
  createInterface({ input: program.child.stdout }).on("line", (line) => all.push(JSON.parse(line)));
  return all;
}

/** Whether the dashboards are told that a device is there, or that it is not: the last word counts. */
function presence(client, device) {
  const told = client.of("presence").flatMap((frame) => frame.devices);
  return told.filter((state) => state.device === device).at(-1)?.online;
}

async function watch(site, relay) {
  const client = await Live.open(site, relay.live);
  client.subscribe({ mode: "PRESENCE", start: { case: "snapshot", value: true } });
  return client;
}

/** Sparkplug B, with births asked for as often as a test wants them. */
const plant = { id: "plant", sparkplug: { host_id: "scada", rebirth_interval: "200ms" } };

scenario(
  "what others publish is in Kafka like anybody's readings, and what cannot be is kept",
  async (site) => {
    const [kafka, mosquitto] = await Promise.all([Kafka.start(site), Mosquitto.start(site)]);
    const settings = { foreign: [zigbee, tasmota, lines, values, plant] };
    const relay = await Relay.start(site, { kafka, mosquitto, settings });
    const telemetry = new Telemetry(site, kafka);
    const all = { site, kafka, mosquitto, relay, telemetry };
    await shapesOfTheirOwn(all);
    await sparkplug(all);
    assert.equal((await relay.program.kill("SIGTERM")).code, 0);
  },
);

/** JSON, line protocol, bare values: readings, presence, dead letters, and a relay that starts anew. */
async function shapesOfTheirOwn({ site, kafka, mosquitto, relay, telemetry }) {
  const publish = await publisher(site, mosquitto);
  await publish("zigbee2mqtt/0x00158d0001", {
    battery: 97,
    temperature: 21.53,
    last_seen: "2026-11-22T12:00:00.250Z",
    update: { state: "idle" },
  });
  await publish("tele/plug/SENSOR", {
    Time: "2026-11-22T13:00:01",
    ENERGY: { Power: 12, Total: 3.185 },
    TempUnit: "C",
  });
  await publish("tele/plug/STATE", { Time: "2026-11-22T13:00:02", POWER: "ON", Wifi: { RSSI: 68 } });
  await publish("telegraf/any", "cpu,host=web-1,cpu=cpu0 idle=98.5,procs=12i 1763812800000000000\n");
  await publish("plain/pump/pressure", "2.75");
  for (const [device, count] of Object.entries({
    "z:0x00158d0001": 3,
    plug: 5,
    "web-1": 2,
    pump: 1,
  })) {
    await telemetry.untilCount(device, count);
    telemetry.checkChain(device);
  }
  // Bit for bit, with their own times where they tell them.
  const of = (device) => telemetry.readings(device);
  assert.deepEqual(of("z:0x00158d0001").temperature, [["1795348800250000", "403587ae147ae148"]]);
  assert.deepEqual(of("plug").POWER, [["1795348802000000", "true"]]);
  assert.deepEqual(of("plug")["ENERGY.Total"], [["1795348801000000", "40097ae147ae147b"]]);
  assert.deepEqual(of("web-1")["cpu.cpu=cpu0.procs"], [["1763812800000000000".slice(0, -3), "12"]]);
  assert.deepEqual(valuesOf(telemetry, "pump", "pressure"), [2.75]);
  assert.deepEqual(
    telemetry.of("plug").map((record) => record.headers["hw-foreign"]),
    telemetry.of("plug").map(() => "tasmota"),
  );
  // Who is there is told by a Last Will, and by what is heard.
  const client = await watch(site, relay);
  await client.until("the plug is on line", () => presence(client, "plug") === true);
  await publish("tele/plug/LWT", "Offline", { retain: true });
  await publish("zigbee2mqtt/0x00158d0001/availability", { state: "offline" });
  await client.until("both are away", () =>
    ["plug", "z:0x00158d0001"].every((device) => presence(client, device) === false),
  );
  // What cannot be read is kept, with its reason; what cannot be told from another device too; what is old is left out.
  const letters = records(site, kafka, "headwater.deadletter");
  await publish("tele/plug/SENSOR", '{"Time": "2026-11-22T13:00:05", "Power": 1');
  await publish("telegraf/any", "no line protocol\n");
  await publish("tele/pl ug/SENSOR", { Time: "2026-11-22T13:00:06", a: 1 });
  await publish("tele/pl_ug/SENSOR", { Time: "2026-11-22T13:00:06", a: 2 });
  await publish("zigbee2mqtt/big", `{"text": "${"x".repeat(70_000)}"}`);
  await until("all four are dead letters", () => letters.length === 4);
  const letter = (part) => letters.find((found) => found.headers["hw-reason"].includes(part));
  const ofLines = letters.find((found) => found.headers["hw-topic"] === "telegraf/any");
  assert.equal(letter("not JSON").headers["hw-topic"], "tele/plug/SENSOR");
  assert.equal(Buffer.from(ofLines.value, "base64").toString(), "no line protocol\n");
  assert.match(letter("mixed up").headers["hw-reason"], /"pl_ug" and "pl ug"/);
  assert.equal(letter("70012 bytes").headers["hw-length"], "70012");
  assert.equal(letter("70012 bytes").headers["hw-foreign"], "zigbee");
  await until(
    "everything is acknowledged",
    async () => (await relay.metric("headwater_foreign_unacknowledged")) === 0,
  );
  assert.equal(await relay.metric("headwater_foreign_dead_letters_total"), 4);
  assert.equal((await relay.program.kill("SIGTERM")).code, 0);
  // A relay that starts anew, on a session that the broker has kept: nothing again, and who is away stays so.
  const count = telemetry.records.length;
  await relay.start();
  const again = await watch(site, relay);
  await again.until("the plug is known as away", () => presence(again, "plug") === false);
  await publish("plain/pump/pressure", "3.5");
  await until("the next reading comes", () => valuesOf(telemetry, "pump", "pressure").length === 2);
  assert.equal(telemetry.records.length, count + 1);
  // A record that Kafka refuses for its size is found among the others, and becomes a dead letter too.
  const limit = (bytes) => run(python, [topics, kafka.bootstrap, "limit", "headwater.telemetry", bytes]);
  await limit("3000");
  const noise = () => randomBytes(300).toString("base64");
  await Promise.all([
    publish("zigbee2mqtt/small", { a: 1 }),
    publish(
      "zigbee2mqtt/large",
      Object.fromEntries(Array.from({ length: 20 }, (_, n) => [`text${n}`, noise()])),
    ),
    publish("zigbee2mqtt/small", { a: 2 }),
  ]);
  await until("the large one is a dead letter", () => letter("Kafka refuses"), 60_000);
  assert.equal(letter("Kafka refuses").headers["hw-topic"], "zigbee2mqtt/large");
  await until("the small ones are there", () => new Set(valuesOf(telemetry, "z:small", "a")).size === 2);
  await limit("1048588");
}

/** Births, aliases, a missing message, death; and a relay killed in between. */
async function sparkplug({ site, mosquitto, relay, telemetry }) {
  const metrics = {
    temperature: { type: "Double", value: 20.5, properties: { engUnit: { type: "String", value: "Cel" } } },
    count: { type: "Int32", value: -1 },
    running: { type: "Boolean", value: true },
  };
  const node = await EdgeNode.connect(site, mosquitto, "plant", "line 1", metrics, {
    host: "spBv1.0/STATE/scada",
  });
  const told = () => node.states.map((state) => JSON.parse(state).online);
  await until("the host application says that it is there", () => told().at(-1) === true);
  const [device, press] = ["plant:line_1", "plant:line_1:press"];
  await node.birth();
  await node.deviceBirth("press", { force: { type: "Float", value: 1.5 } });
  await node.data({ temperature: 21.25, count: -2 });
  await node.data({ force: 2.5 }, "press");
  await until("the values of aliases come", () => valuesOf(telemetry, press, "force").length === 2);
  await until("those of the node too", () => valuesOf(telemetry, device, "count").length === 2);
  assert.deepEqual(valuesOf(telemetry, device, "temperature"), [20.5, 21.25]);
  assert.deepEqual(valuesOf(telemetry, device, "count"), ["-1", "-2"]);
  assert.equal(telemetry.of(device)[0].columns.temperature.unit, "Cel");
  assert.equal(node.rebirths, 0);
  // One is lost: the node is asked, and tells all anew.
  node.seq += 1;
  await node.data({ temperature: 22.5 });
  await until("the node is asked for its births", () => node.rebirths === 1);
  assert.equal(await relay.metric("headwater_foreign_gaps_total"), 1);
  const client = await watch(site, relay);
  await client.until("both are on line", () => [device, press].every((of) => presence(client, of) === true));
  // The relay is killed, and what the node sends meanwhile waits at the broker. The next run knows no alias until it has asked.
  await relay.program.kill("SIGKILL");
  await until("the broker says that the host application is not there", () => told().at(-1) === false);
  const before = node.rebirths;
  await node.data({ count: -3 });
  await relay.start();
  await until("the node is asked again", () => node.rebirths > before);
  await until("the host application is there again", () => told().at(-1) === true);
  await node.data({ temperature: 23.75 });
  await until("values come again", () => valuesOf(telemetry, device, "temperature").at(-1) === 23.75);
  node.die();
  const other = await watch(site, relay);
  await other.until("both are away", () => [device, press].every((of) => presence(other, of) === false));
  for (const of of [device, press]) telemetry.checkChain(of);
}

scenario("whatever is killed, each message of others is in Kafka, in order", async (site) => {
  const [kafka, mosquitto] = await Promise.all([
    Kafka.start(site),
    Mosquitto.start(site, "max_queued_messages 0\n"),
  ]);
  const settings = {
    foreign: [
      { id: "owned", topics: ["owned/+"], device: "{1}", map: { format: "json" } },
      { id: "shared", topics: ["shared/+"], device: "{1}-{2}", map: { format: "json" }, shared: true },
    ],
  };
  const bridges = [];
  for (const name of ["one", "two"]) {
    const own = { ...settings, mqtt: { client_id: name } };
    bridges.push(await Relay.start(site, { kafka, mosquitto, part: "bridge", settings: own }));
  }
  const telemetry = new Telemetry(site, kafka);
  const publish = await publisher(site, mosquitto);
  let [sent, stop] = [0, false];
  const load = (async () => {
    for (; !stop; sent++) {
      await Promise.all([publish("owned/a", { n: sent }), publish(`shared/${sent % 5}`, { n: sent })]);
      // Some hundred a second: what waits while something is down is read in a moment.
      await setTimeout(3);
    }
  })();
  // A scenario that fails says why, and not that its publisher was closed.
  site.onClose(async () => {
    stop = true;
    await Promise.race([load.catch(() => {}), setTimeout(5_000)]);
  });
  const held = () => new Set(valuesOf(telemetry, "owned", "n")).size;
  const moreThan = (count) => until("readings come", () => held() > count, 60_000);
  await moreThan(100);
  for (const bridge of bridges) {
    await bridge.program.kill("SIGKILL");
    await moreThan(held() + 200);
    await bridge.start();
  }
  await kafka.stop({ kill: true });
  await kafka.start();
  await moreThan(held() + 200);
  stop = true;
  await load;
  const all = Array.from({ length: sent }, (_, n) => n);
  const devices = ["shared-0", "shared-1", "shared-2", "shared-3", "shared-4"];
  const ofShared = () => devices.flatMap((device) => valuesOf(telemetry, device, "n"));
  await until("every message of the owned entry is there", () => held() === sent, 60_000);
  await until("every message of the shared entry is there", () => new Set(ofShared()).size === sent, 60_000);
  assert.deepEqual([...new Set(valuesOf(telemetry, "owned", "n"))], all);
  for (const device of ["owned", ...devices]) telemetry.checkChain(device);
  const repeated = valuesOf(telemetry, "owned", "n").length + ofShared().length - 2 * sent;
  console.log(
    `${2 * sent} messages, none missing; ${repeated} twice, after 2 kills of bridges and 1 of Kafka`,
  );
  for (const bridge of bridges) assert.equal((await bridge.program.kill("SIGTERM")).code, 0);
});
