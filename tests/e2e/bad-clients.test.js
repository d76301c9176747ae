/** The live channel under bad input: each kind ends with its own close code, and everyone else is served on. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { startAgent } from "./harness/agent.js";
import { Kafka } from "./harness/kafka.js";
import { Live } from "./harness/live.js";
import { Mosquitto } from "./harness/mosquitto.js";
import { RawSocket } from "./harness/rawsocket.js";
import { Relay } from "./harness/relay.js";
import { repository, scenario } from "./harness/site.js";
import { token } from "./harness/token.js";
import { Trace } from "./harness/trace.js";
import { until } from "./harness/until.js";

const sensors = Trace.read(join(repository, "bench/data/sensors-1hz.csv"));
const FIN = 0x80;
const RSV1 = 0x40;
const BINARY = 2;

async function relayWith(site, gateway) {
  const [kafka, mosquitto] = await Promise.all([Kafka.start(site), Mosquitto.start(site)]);
  return { mosquitto, relay: await Relay.start(site, { kafka, mosquitto, settings: { gateway } }) };
}

scenario("each bad client is closed with its code; a good one gets everything", async (site) => {
  const { mosquitto, relay } = await relayWith(site, {
    hello_timeout: "700ms",
    ack_timeout: "1s",
    limits: { subscriptions: 4 },
  });
  const good = await Live.open(site, relay.live);
  good.subscribe({ devices: ["good"] });
  await good.next("subscribed");
  const trace = sensors.slice(site, "trace.csv", 0, 1200);
  startAgent(site, { device: "good", mosquitto, trace, speed: 200 });

  const closesWith = async (code, what, misbehave, options) => {
    const client = await Live.open(site, relay.live, options);
    await misbehave(client);
    assert.equal((await client.closed).code, code, what);
  };
  const silent = { hello: false };
  await closesWith(1003, "text", (client) => client.socket.send("hello"));
  await closesWith(4400, "garbage", (client) => client.socket.send(Buffer.from([0xff, 0xff, 0xff])));
  await closesWith(4400, "empty message", (client) => client.socket.send(Buffer.alloc(0)));
  await closesWith(4400, "subscribe before hello", (client) => client.subscribe(), silent);
  await closesWith(4400, "hello twice", (client) => client.send("hello", { client: "again" }));
  await closesWith(4408, "no hello", () => {}, silent);
  await closesWith(4409, "ack for what was never sent", (client) => client.ack(1000, 100_000));
  const everything = { devices: ["good"], start: { case: "timeUs", value: 0n } };
  await closesWith(4408, "no ack ever", (client) => client.subscribe(everything), { acks: false });
  await closesWith(1009, "message over the limit", (client) => client.socket.send(Buffer.alloc(1 << 20)), {
    deflate: false,
  });
  // 16 MiB of zeros are about 16 KiB on the wire: only the inflated size is too big.
  await closesWith(1009, "deflate bomb", (client) => client.socket.send(Buffer.alloc(1 << 24)));

  const rawly = async (code, what, misbehave, options) => {
    const raw = await RawSocket.open(site, relay.port, options);
    misbehave(raw);
    assert.equal(await raw.closeCode(), code, what);
  };
  const deflate = { extensions: "permessage-deflate" };
  await rawly(1002, "unmasked frame", (raw) => raw.frame(FIN | BINARY, Buffer.from("x"), { masked: false }));
  await rawly(1002, "RSV1 without deflate", (raw) => raw.frame(FIN | RSV1 | BINARY, Buffer.from("x")));
  await rawly(1002, "reserved opcode", (raw) => raw.frame(FIN | 0x0b, Buffer.from("x")));
  await rawly(
    1007,
    "bytes that do not inflate",
    (raw) => raw.frame(FIN | RSV1 | BINARY, Buffer.alloc(64, 0xff)),
    deflate,
  );
  const counted = { 1002: 3, 1003: 1, 1007: 1, 1009: 2, 4400: 4, 4408: 2, 4409: 1 };
  for (const [code, times] of Object.entries(counted)) {
    const closes = () => relay.metric("headwater_gateway_closes_total", { code });
    await until(`${times} closes with ${code} are counted`, async () => (await closes()) === times);
  }

  const count = () =>
    good
      .of("data")
      .flatMap((data) => Object.values(data.decoded.columns))
      .flatMap((c) => c.readings).length;
  await good.until("the good client has all readings", () => count() >= trace.count);
  assert.equal(count(), trace.count);
});

scenario(
  "a subscription that cannot be is answered with an error, and the connection goes on",
  async (site) => {
    const { relay } = await relayWith(site, { limits: { subscriptions: 2 } });
    const client = await Live.open(site, relay.live);
    await client.next("welcome");
    const errors = () => client.of("error");
    client.subscribe({ id: 1, mode: "UNSPECIFIED" });
    await client.until("an error for the mode", () => errors().length === 1);
    client.subscribe({ id: 2, devices: ["[z-a"] });
    await client.until("an error for the glob", () => errors().length === 2);
    for (const id of [3, 4, 5]) client.subscribe({ id, devices: [`d${id}`] });
    await client.until("an error for one subscription too many", () => errors().length === 3);
    for (const error of errors())
      assert.ok(error.message.length > 10, `it says what is wrong: ${error.message}`);
    client.send("ping", { nonce: 7n });
    assert.equal((await client.next("pong")).nonce, 7n);
  },
);

scenario("tokens: without a valid one nothing is sent; scopes hold; expiry closes", async (site) => {
  const secret = "a shared secret of some length, for tests";
  const { mosquitto, relay } = await relayWith(site, {
    keys: [{ algorithm: "HS256", file: site.write("key", `${secret}\n`) }],
    tokens: { leeway: "0s" },
  });
  const now = Math.floor(Date.now() / 1000);
  const claims = { sub: "wall", exp: now + 3600, hw: { read: ["mine-*"] } };
  const refused = async (what, jwt, how = "hello") => {
    const options =
      how === "hello" ? { hello: { token: jwt } } : { protocols: ["headwater.v1", `headwater.token.${jwt}`] };
    // A refusal may come as soon as the handshake is over.
    const client = await Live.open(site, relay.live, options);
    assert.equal((await client.closed).code, 4401, what);
    assert.deepEqual(client.of("welcome"), [], `${what}: nothing before the token is checked`);
  };
  await refused("missing", "");
  await refused("expired", token(secret, { ...claims, exp: now - 60 }));
  await refused("expired, in the subprotocols", token(secret, { ...claims, exp: now - 60 }), "subprotocol");
  await refused("another key", token("another secret of some length", claims));
  await refused("no algorithm", token(secret, claims, { alg: "none", typ: "JWT" }));
  await refused("no expiry", token(secret, { sub: "wall", hw: claims.hw }));
  await refused("not a token", "abc.def");

  const trace = sensors.slice(site, "trace.csv", 0, 60);
  const client = await Live.open(site, relay.live, {
    protocols: ["headwater.v1", `headwater.token.${token(secret, claims)}`],
  });
  assert.equal((await client.next("welcome")).subject, "wall");
  assert.equal(client.socket.protocol, "headwater.v1", "the token is not echoed");
  client.subscribe({ id: 1 });
  client.subscribe({ id: 2, mode: "PRESENCE", start: { case: "snapshot", value: true } });
  client.subscribe({ id: 3, mode: "LATEST", start: { case: "snapshot", value: true } });
  await client.until("subscribed three times", () => client.of("subscribed").length === 3);
  startAgent(site, { device: "yours-1", mosquitto, trace });
  startAgent(site, { device: "mine-1", mosquitto, trace });
  const seen = () =>
    new Set([
      ...client.of("data").map((data) => data.decoded.device),
      ...client.of("latest").flatMap((frame) => frame.batches.map((batch) => batch.device)),
      ...client.of("presence").flatMap((frame) => frame.devices.map((device) => device.device)),
    ]);
  const count = () =>
    client
      .of("data")
      .flatMap((data) => Object.values(data.decoded.columns))
      .flatMap((c) => c.readings).length;
  await client.until("the token's own device in all modes", () => {
    return (
      count() >= trace.count &&
      client.of("latest").length > 0 &&
      client.of("presence").some((f) => f.devices.length > 0)
    );
  });
  // Asked for by name, it is refused in words.
  client.subscribe({ id: 4, devices: ["yours-1"] });
  await client.until(
    "an answer about another's device",
    () => client.of("error").length + client.of("subscribed").length > 3,
  );
  client.send("ping", { nonce: 1n });
  await client.next("pong");
  assert.deepEqual([...seen()], ["mine-1"]);

  const short = await Live.open(site, relay.live, {
    hello: { token: token(secret, { ...claims, exp: Math.floor(Date.now() / 1000) + 6 }) },
  });
  await short.next("welcome");
  assert.equal((await short.closed).code, 4401, "expired while connected");
  // A fresh token in band keeps a connection.
  const fresh = await Live.open(site, relay.live, {
    hello: { token: token(secret, { ...claims, exp: Math.floor(Date.now() / 1000) + 6 }) },
  });
  await fresh.next("welcome");
  fresh.send("token", { token: token(secret, claims) });
  await fresh.next("tokenAccepted");
  const expired = await Live.open(site, relay.live, {
    hello: { token: token(secret, { ...claims, exp: Math.floor(Date.now() / 1000) + 8 }) },
  });
  await expired.closed;
  fresh.send("ping", { nonce: 2n });
  await fresh.next("pong");
});

scenario("without keys the gateway stays on loopback", async (site) => {
  const [kafka, mosquitto] = await Promise.all([Kafka.start(site), Mosquitto.start(site)]);
  const relay = await Relay.prepare(site, {
    kafka,
    mosquitto,
    settings: { gateway: { listen: "0.0.0.0:0" } },
  });
  relay.launch();
  const { code } = await relay.program.exit;
  assert.notEqual(code, 0);
  assert.match(relay.program.log(), /keys|allow_anonymous/);
});
