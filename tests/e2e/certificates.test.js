/**
 * deploy/mosquitto/certificates.conf with what deploy/authority makes: nobody gets in without a certificate that is good, and a device
 * can neither speak nor listen as another, by MQTT 5 and by 3.1.1.
 */

import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import mqtt from "mqtt";
import { Authority } from "./harness/authority.js";
import { DeployedMosquitto } from "./harness/deployed.js";
import { scenario } from "./harness/site.js";
import { until } from "./harness/until.js";

const VERSIONS = [5, 4];
const FROM_DEVICES = ["data", "hello", "series", "status", "reply"];
const TO_DEVICES = ["ack", "command"];

/** Connects, and is ended with the site. Rejects if the broker does not let it in. */
function connect(site, options) {
  return new Promise((resolve, reject) => {
    const client = mqtt.connect({ reconnectPeriod: 0, connectTimeout: 15_000, ...options });
    site.onClose(() => client.endAsync(true));
    client.heard = [];
    client.on("message", (topic, payload, { retain }) =>
      client.heard.push(`${retain ? "kept " : ""}${topic} ${payload}`),
    );
    client.once("connect", () => resolve(client));
    client.once("error", (error) => reject(error));
    client.once("close", () => reject(new Error("the broker has closed the connection")));
  });
}

/** Publishes, whether it may or not: of QoS 1, MQTT 5 tells that it may not. */
const attempt = (client, topic, payload, options) =>
  client.publishAsync(topic, payload, { qos: 1, ...options }).catch((error) => {
    assert.match(error.message, /not authori[sz]ed/i);
  });

const heardBy = (client, message) =>
  until(`${message} is heard`, () => client.heard.some((other) => other.endsWith(message)));

scenario("a device speaks as itself only", async (site) => {
  const broker = await DeployedMosquitto.start(site, ["gw-01", "gw-02"]);
  for (const protocolVersion of VERSIONS) {
    const spy = await connect(site, broker.spy());
    const relay = await connect(site, broker.relay());
    await spy.subscribeAsync("#", { qos: 1 });
    await relay.subscribeAsync("hw1/+/+/data", { qos: 1 });
    const other = await connect(site, broker.device("gw-02"));
    const hello = `still here ${protocolVersion}`;
    await other.publishAsync("hw1/7/gw-02/hello", hello, { qos: 1, retain: true });
    await heardBy(spy, `hw1/7/gw-02/hello ${hello}`);
    spy.heard = [];

    const device = await connect(site, broker.device("gw-01", { protocolVersion }));
    const forbidden = [
      ...[...FROM_DEVICES, ...TO_DEVICES].map((kind) => `hw1/7/gw-02/${kind}`),
      ...TO_DEVICES.map((kind) => `hw1/7/gw-01/${kind}`),
      ...["hw1/7/gw-01", "hw1/gw-01/data", "hw2/7/gw-01/data", "hw1/7/gw-01/data/more", "hw1/7/8/gw-01/data"],
      ...["hw1/7/headwater-relay/data", "hw1/7//data", "zigbee2mqtt/x", "$SYS/broker/version", "anything"],
    ];
    for (const topic of forbidden) {
      for (const retain of [false, true]) await attempt(device, topic, "forged", { retain });
      await attempt(device, topic, "forged", { qos: 0 });
    }
    // What a retained message of another's says cannot be taken away either.
    await attempt(device, "hw1/7/gw-02/hello", "", { retain: true });
    const own = FROM_DEVICES.map((kind) => `hw1/7/gw-01/${kind}`);
    for (const topic of own) await device.publishAsync(topic, `own ${protocolVersion}`, { qos: 1 });
    await heardBy(spy, `hw1/7/gw-01/reply own ${protocolVersion}`);
    assert.deepEqual(
      spy.heard,
      own.map((topic) => `${topic} own ${protocolVersion}`),
    );
    await heardBy(relay, `hw1/7/gw-01/data own ${protocolVersion}`);

    const later = await connect(site, broker.spy());
    await later.subscribeAsync("#", { qos: 1 });
    await heardBy(later, hello);
    assert.deepEqual(later.heard, [`kept hw1/7/gw-02/hello ${hello}`]);
    for (const client of [spy, relay, other, device, later]) await client.endAsync(true);
  }
});

scenario("a device hears only what is meant for it", async (site) => {
  const broker = await DeployedMosquitto.start(site, ["gw-01", "gw-02"]);
  const spy = await connect(site, broker.spy());
  const kinds = [...FROM_DEVICES, ...TO_DEVICES];
  const secrets = [
    ...kinds.map((kind) => `hw1/7/gw-02/${kind}`),
    ...FROM_DEVICES.map((kind) => `hw1/7/gw-01/${kind}`),
    ...["hw1/7/headwater-relay/command", "hw2/7/gw-01/command", "zigbee2mqtt/x", "anything"],
  ];
  for (const topic of secrets) await spy.publishAsync(topic, "kept secret", { qos: 1, retain: true });
  const filters = [
    ...["#", "+/#", "hw1/#", "+/+/+/command", "hw1/+/+/command", "hw1/+/+/ack", "hw1/+/+/data", "hw1/7/+/+"],
    ...kinds.map((kind) => `hw1/7/gw-02/${kind}`),
    ...["hw1/7/gw-01/data", "$SYS/#", "$SYS/broker/version", "zigbee2mqtt/#"],
    ...["$share/g/#", "$share/g/hw1/+/+/command", "$share/g/hw1/7/gw-02/data", "$share/hw1/+/+/+/+"],
  ];
  await spy.subscribeAsync("$SYS/broker/version");
  await until("the broker tells its version to who may know it", () =>
    spy.heard.some((other) => other.includes("$SYS")),
  );
  const relay = await connect(site, broker.relay());
  await relay.subscribeAsync("hw1/+/+/data", { qos: 1 });
  for (const protocolVersion of VERSIONS) {
    for (const [n, filter] of filters.entries()) {
      const device = await connect(site, broker.device("gw-01", { protocolVersion }));
      // Mosquitto may grant it or not: what counts is what comes.
      await device.subscribeAsync(filter, { qos: 1 }).catch(() => {});
      await device.subscribeAsync(["hw1/7/gw-01/ack", "hw1/7/gw-01/command"], { qos: 1 });
      for (const topic of secrets) await spy.publishAsync(topic, "live secret", { qos: 1 });
      await spy.publishAsync("hw1/7/gw-01/ack", `ack ${n}`, { qos: 1 });
      await spy.publishAsync("hw1/7/gw-01/command", `command ${n}`, { qos: 1 });
      await heardBy(device, `hw1/7/gw-01/command command ${n}`);
      // Twice where the filter covers it, too.
      const heard = [...new Set(device.heard)];
      assert.deepEqual(heard, [`hw1/7/gw-01/ack ack ${n}`, `hw1/7/gw-01/command command ${n}`], filter);
      // Nor does it take away, by a shared subscription, what the relay is to hear.
      for (const name of ["gw-01", "gw-02"]) await heardBy(relay, `hw1/7/${name}/data live secret`);
      relay.heard = [];
      await device.endAsync(true);
    }
  }
});

scenario("a device dies as itself only, and ends nobody else's connection", async (site) => {
  const broker = await DeployedMosquitto.start(site, ["gw-01", "gw-02"]);
  const spy = await connect(site, broker.spy());
  const relay = await connect(site, broker.relay({ clientId: "headwater-relay-1" }));
  const first = await connect(site, broker.device("gw-01"));
  await spy.subscribeAsync("#", { qos: 1 });
  await first.subscribeAsync("hw1/7/gw-01/command", { qos: 1 });
  for (const protocolVersion of VERSIONS) {
    const second = (options) => connect(site, broker.device("gw-02", { protocolVersion, ...options }));
    for (const topic of ["hw1/7/gw-01/status", "hw1/7/gw-01/ack", "hw1/7/gw-02/command", "anything"]) {
      const will = { topic, payload: "a forged will", qos: 1, retain: true };
      // A broker may also refuse the connection.
      await second({ will }).then(
        (client) => client.stream.destroy(),
        () => {},
      );
    }
    const will = { topic: "hw1/7/gw-02/status", payload: `gone ${protocolVersion}`, qos: 1 };
    (await second({ will })).stream.destroy();
    await heardBy(spy, `hw1/7/gw-02/status gone ${protocolVersion}`);

    for (const clientId of ["gw-01", "headwater-relay-1", "headwater-foreign-zigbee", ""]) {
      for (const clean of [true, false]) {
        if (clientId === "" && !clean) continue;
        const intruder = await second({ clientId, clean, username: "headwater-relay", password: "x" });
        await intruder.subscribeAsync(["hw1/7/gw-02/ack", "hw1/+/+/data"], { qos: 1 });
        await attempt(intruder, "hw1/7/gw-01/data", "under another's id");
        await relay.publishAsync("hw1/7/gw-01/command", "for the first", { qos: 1 });
        await first.publishAsync("hw1/7/gw-01/data", "of the first", { qos: 1 });
        await relay.publishAsync("hw1/7/gw-02/ack", "for the second", { qos: 1 });
        await heardBy(intruder, "hw1/7/gw-02/ack for the second");
        assert.deepEqual(intruder.heard, ["hw1/7/gw-02/ack for the second"]);
        await intruder.endAsync(true);
      }
    }
  }
  assert.ok(first.connected && relay.connected, "who was there is still there");
  await heardBy(first, "hw1/7/gw-01/command for the first");
  const forged = spy.heard.filter((message) => /forged|under another/.test(message));
  assert.deepEqual(forged, []);
});

scenario("a name that is a wildcard, or the relay's, gives no more than any other", async (site) => {
  const broker = await DeployedMosquitto.start(site, ["gw-02"]);
  const spy = await connect(site, broker.spy());
  await spy.subscribeAsync("#", { qos: 1 });
  const other = await connect(site, broker.device("gw-02"));
  const letIn = [];
  for (const [n, subject] of ["+", "#", "gw-02/data", "headwater-relay", "%u", "gw-02 "].entries()) {
    const { cert, key } = broker.devices.issue(`odd-${n}`, { subject });
    const files = { cert: readFileSync(cert), key: readFileSync(key) };
    const odd = await connect(site, broker.device("gw-02", files)).catch((error) => {
      assert.match(error.message, /bad user name/i);
    });
    if (odd === undefined) continue;
    letIn.push(subject);
    await odd.subscribeAsync(["#", "hw1/+/+/command", "hw1/+/+/data"], { qos: 1 }).catch(() => {});
    for (const kind of [...FROM_DEVICES, ...TO_DEVICES]) await attempt(odd, `hw1/7/gw-02/${kind}`, "forged");
    await spy.publishAsync("hw1/7/gw-02/command", "secret", { qos: 1 });
    await other.publishAsync("hw1/7/gw-02/data", `own ${n}`, { qos: 1 });
    await heardBy(spy, `own ${n}`);
    // The broker answers in order: what was for it would be here.
    await odd.subscribeAsync("nothing", { qos: 1 }).catch(() => {});
    assert.deepEqual(odd.heard, [], subject);
    await odd.endAsync(true);
  }
  assert.ok(other.connected && letIn.includes("headwater-relay"), `let in: ${letIn}`);
  assert.deepEqual(
    spy.heard.filter((message) => message.includes("forged")),
    [],
  );
  for (const name of ["headwater-relay", "+", "a/b", "..", "x".repeat(65)]) {
    assert.throws(() => broker.authority("device", name), /can be no device's name|is no device's name/);
  }
});

scenario("the relay may what it needs, and no more", async (site) => {
  const broker = await DeployedMosquitto.start(site, []);
  const spy = await connect(site, broker.spy());
  await spy.subscribeAsync("#", { qos: 1 });
  for (const protocolVersion of VERSIONS) {
    const relay = await connect(site, broker.relay({ protocolVersion }));
    await relay.subscribeAsync("#", { qos: 1 });
    spy.heard = [];
    for (const kind of FROM_DEVICES) await attempt(relay, `hw1/7/gw-01/${kind}`, "as a device");
    for (const topic of ["anything", "zigbee2mqtt/x/set", "$SYS/broker/version"])
      await attempt(relay, topic, "as another");
    for (const kind of TO_DEVICES) await relay.publishAsync(`hw1/7/gw-01/${kind}`, "for it", { qos: 1 });
    await heardBy(spy, "hw1/7/gw-01/command for it");
    assert.deepEqual(
      spy.heard,
      TO_DEVICES.map((kind) => `hw1/7/gw-01/${kind} for it`),
    );
    for (const topic of ["anything", "hw1/7/gw-01/other"])
      await spy.publishAsync(topic, "not its own", { qos: 1 });
    for (const kind of FROM_DEVICES)
      await spy.publishAsync(`hw1/7/gw-01/${kind}`, "for the relay", { qos: 1 });
    await heardBy(relay, "hw1/7/gw-01/reply for the relay");
    assert.deepEqual(
      relay.heard,
      FROM_DEVICES.map((kind) => `hw1/7/gw-01/${kind} for the relay`),
    );
    await relay.endAsync(true);
  }
});

scenario("nobody gets in without a good certificate", async (site) => {
  const broker = await DeployedMosquitto.start(site, ["gw-01", "gw-02"]);
  const elsewhere = new Authority(site, "elsewhere");
  const files = ({ cert, key }) => ({ cert: readFileSync(cert), key: readFileSync(key) });
  const nothing = { cert: undefined, key: undefined };
  const expired = files(broker.devices.issue("expired", { subject: "gw-01", days: -1 }));
  const nameless = files(broker.devices.issue("nameless", { subject: "" }));
  const [device, relay] = [broker.device("gw-01"), broker.relay()];
  const pair = ({ cert, key }) => ({ cert, key });
  const refused = {
    "no certificate": broker.device("gw-01", { ...nothing, username: "gw-01", password: "x" }),
    "no certificate, as the relay": broker.relay({ ...nothing, username: "headwater-relay", password: "x" }),
    "another authority's": broker.device("gw-01", files(elsewhere.issue("stranger", { subject: "gw-01" }))),
    "another authority's, as the relay": broker.relay(
      files(elsewhere.issue("false-relay", { subject: "headwater-relay" })),
    ),
    expired: broker.device("gw-01", expired),
    "without a name": broker.device("gw-01", nameless),
    "a device's, as the relay": broker.relay(pair(device)),
    "the relay's, as a device": broker.device("gw-01", pair(relay)),
    "the broker's own, as the relay": broker.relay(files(broker.server)),
  };
  for (const protocolVersion of VERSIONS) {
    await (await connect(site, { ...device, protocolVersion })).endAsync(true);
    await (await connect(site, { ...relay, protocolVersion })).endAsync(true);
    for (const [why, options] of Object.entries(refused)) {
      await assert.rejects(connect(site, { ...options, protocolVersion }), Error, why);
    }
  }

  // The relay's is renewed by itself, and all else stays as it is.
  broker.authority("relay");
  const relayAgain = broker.relay();
  assert.notDeepEqual(relayAgain.cert, relay.cert);
  await (await connect(site, relayAgain)).endAsync(true);
  await (await connect(site, device)).endAsync(true);

  // One that was renewed is revoked with the one before: neither gets in.
  const told = broker.authority("device", "gw-01");
  const renewed = broker.device("gw-01");
  const end = new Date(new X509Certificate(renewed.cert).validTo).toISOString().slice(0, 10);
  assert.equal(told, `gw-01: good until ${end}; nothing renews it, enrolment does (docs/provisioning.md)`);
  assert.notDeepEqual(renewed.cert, device.cert);
  await (await connect(site, renewed)).endAsync(true);
  broker.authority("revoke", "gw-01");
  assert.throws(() => broker.authority("revoke", "gw-01"), /no certificate that is not revoked/);
  broker.program.child.kill("SIGHUP");
  const isRefused = async () => {
    const stranger = await connect(site, device).catch(() => {});
    await stranger?.endAsync(true);
    return stranger === undefined;
  };
  await until("Mosquitto has read the list of revoked certificates", isRefused);
  for (const protocolVersion of VERSIONS) {
    for (const revoked of [device, renewed]) {
      await assert.rejects(connect(site, { ...revoked, protocolVersion }), Error, "revoked");
    }
    await (await connect(site, { ...broker.device("gw-02"), protocolVersion })).endAsync(true);
  }
  // Connections that stand go on until they end.
  const standing = await connect(site, broker.device("gw-02"));
  broker.authority("revoke", "gw-02");
  broker.program.child.kill("SIGHUP");
  await standing.publishAsync("hw1/7/gw-02/data", "still here", { qos: 1 });
  await broker.restart();
  await until("a restart ends them", () => !standing.connected);
  await assert.rejects(connect(site, broker.device("gw-02")), Error, "revoked, after a restart");
  // A box that was found again.
  broker.authority("device", "gw-01");
  await connect(site, broker.device("gw-01"));
});
