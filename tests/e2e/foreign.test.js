/** Foreign devices: what others publish by their own rules is in Kafka, and only then the broker forgets it. */

import assert from "node:assert/strict";
import mqtt from "mqtt";
import { Kafka } from "./harness/kafka.js";
import { Mosquitto } from "./harness/mosquitto.js";
import { Relay } from "./harness/relay.js";
import { scenario } from "./harness/site.js";
import { Telemetry } from "./harness/telemetry.js";
import { until } from "./harness/until.js";

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

/** The values of a metric, as the log has them. */
function valuesOf(telemetry, device, metric) {
  return (telemetry.readings(device)[metric] ?? []).map(shown);
}

function shown([, value]) {
  return value;
}

scenario("JSON, line protocol and bare values of others are in Kafka like anybody's readings", async (site) => {
  const [kafka, mosquitto] = await Promise.all([Kafka.start(site), Mosquitto.start(site)]);
  const settings = { foreign: [zigbee, tasmota, lines, values] };
  const relay = await Relay.start(site, { kafka, mosquitto, settings });
  const telemetry = new Telemetry(site, kafka);
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
  console.log(JSON.stringify(telemetry.records));
  assert.equal(await relay.metric("headwater_foreign_unacknowledged"), 0);
});
