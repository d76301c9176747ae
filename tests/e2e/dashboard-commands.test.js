/**
 * Commands from dashboards to real agents, over gateways that are killed in between: each command is carried out once, which shows in a file that the
 * agent appends to; who asked gets the reply, on whatever gateway; and the audit in Kafka, read by another program, says who asked for what.
 */

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { notes, startExecAgent } from "./harness/execagent.js";
import { Kafka } from "./harness/kafka.js";
import { Live } from "./harness/live.js";
import { Mosquitto } from "./harness/mosquitto.js";
import { Relay } from "./harness/relay.js";
import { python, repository, scenario } from "./harness/site.js";
import { token } from "./harness/token.js";
import { until } from "./harness/until.js";

const secret = randomBytes(32).toString("hex");

function tokenOf(subject, command) {
  const exp = Math.floor(Date.now() / 1000) + 600;
  return token(secret, { sub: subject, exp, hw: { read: ["*"], command } });
}

async function dashboard(site, gateway, subject, command) {
  const client = await Live.open(site, gateway.live, { hello: { token: tokenOf(subject, command) } });
  const welcome = await client.next("welcome");
  assert.equal(welcome.mayCommand, command.length > 0);
  return client;
}

/** Sends a command and returns its answer: the reply, or the error that names it. */
async function ask(client, fields, limit) {
  const before = { reply: client.of("reply").length, error: client.of("error").length };
  client.send("command", fields);
  const answers = () => [
    ...client
      .of("reply")
      .slice(before.reply)
      .filter((reply) => reply.id === fields.id),
    ...client
      .of("error")
      .slice(before.error)
      .filter((error) => error.command === fields.id),
  ];
  await client.until(`${fields.id} has an answer`, () => answers().length > 0, limit);
  return answers()[0];
}

/** What the audit holds, by a program that shares no code with ours. */
function readAudit(site, kafka) {
  const script = join(repository, "tests/e2e/python/records.py");
  const program = site.start("audit", python, [script, kafka.bootstrap, "headwater.audit"], {
    stdout: "pipe",
  });
  const records = [];
  createInterface({ input: program.child.stdout }).on("line", (line) => {
    const { key, value } = JSON.parse(line);
    records.push({ key, ...JSON.parse(Buffer.from(value, "base64").toString()) });
  });
  const of = (id) => records.filter((record) => record.id === id);
  return { records, of, events: (id) => of(id).map((record) => record.event) };
}

scenario(
  "a dashboard's command is carried out once, whichever gateway is asked, and audited",
  async (site) => {
    const [kafka, mosquitto] = await Promise.all([Kafka.start(site), Mosquitto.start(site)]);
    const bridge = await Relay.start(site, { kafka, mosquitto, part: "bridge" });
    const keys = [{ algorithm: "HS256", file: site.write("secret", secret) }];
    const options = { kafka, part: "gateway", settings: { gateway: { keys } } };
    const first = await Relay.start(site, options);
    const second = await Relay.start(site, options);
    const audit = readAudit(site, kafka);
    startExecAgent(site, mosquitto, "east");
    startExecAgent(site, mosquitto, "west");
    await until(
      "both agents are on line",
      async () => (await bridge.metric("headwater_bridge_devices_online")) === 2,
    );

    const ann = await dashboard(site, first, "ann", ["east"]);
    const exec = (id, name) => ({ id, device: "east", name: "exec", arguments: [name] });
    // REPLY_STATUS_OK is 1.
    assert.equal((await ask(ann, exec("a1", "note-1"))).status, 1);
    assert.deepEqual(notes(site, "east"), ["1"]);

    // The same again, here and on another gateway: the reply that is there, and nothing is done.
    const again = await ask(ann, exec("a1", "note-1"));
    assert.deepEqual([again.status, again.device], [1, "east"]);
    const elsewhere = await dashboard(site, second, "ann", ["east"]);
    assert.equal((await ask(elsewhere, exec("a1", "note-1"))).status, 1);
    assert.deepEqual(notes(site, "east"), ["1"]);

    // In the order of the connection.
    for (const number of [2, 3, 4]) ann.send("command", exec(`o${number}`, `note-${number}`));
    await ann.until("all three have a reply", () => ann.of("reply").length >= 5);
    assert.deepEqual(notes(site, "east"), ["1", "2", "3", "4"]);

    // The gateway is killed while the device is at it; its client asks another under the same id.
    ann.send("command", exec("slow", "slow-5"));
    await until(
      "the device is carrying it out",
      async () => (await bridge.metric("headwater_bridge_commands_open")) === 1,
    );
    await first.program.kill("SIGKILL");
    const reply = await ask(elsewhere, exec("slow", "slow-5"));
    assert.equal(reply.status, 1, reply.output);
    assert.deepEqual(notes(site, "east"), ["1", "2", "3", "4", "5"]);
    // And once more after a restart of the gateway that wrote it: it has read the reply from Kafka.
    await first.start();
    const back = await dashboard(site, first, "ann", ["east"]);
    assert.equal((await ask(back, exec("slow", "slow-5"))).status, 1);
    assert.deepEqual(notes(site, "east"), ["1", "2", "3", "4", "5"]);

    // Foreign devices, whether they exist or not.
    const foreign = await ask(back, { id: "f1", device: "west", name: "ping" });
    const absent = await ask(back, { id: "f2", device: "nobody", name: "ping" });
    assert.deepEqual([foreign.code, foreign.message], [absent.code, absent.message]);
    assert.equal(foreign.code, 2, "ERROR_CODE_FORBIDDEN");
    const bob = await dashboard(site, second, "bob", []);
    assert.equal((await ask(bob, { id: "b1", device: "east", name: "ping" })).code, 2);
    // Somebody else's command of the same id is another one.
    const eve = await dashboard(site, second, "eve", ["*"]);
    assert.equal((await ask(eve, exec("a1", "note-6"))).status, 1);
    assert.deepEqual(notes(site, "east").at(-1), "6");
    // What a bridge and an agent say goes back as it is.
    assert.equal((await ask(eve, { id: "u1", device: "nobody", name: "ping" })).status, 4);
    assert.equal((await ask(eve, { id: "u2", device: "west", name: "dance" })).status, 5);
    const pong = await ask(eve, { id: "p1", device: "west", name: "ping" });
    assert.match(pong.output, /^west /);

    await until("the audit has the last reply", () => audit.events("p1").length === 2);
    const [asked, answered] = audit.of("p1");
    assert.deepEqual(
      [asked.event, asked.subject, asked.address, asked.key, asked.device, asked.command, asked.arguments],
      ["asked", "eve", "127.0.0.1", "west", "west", "ping", 0],
    );
    assert.deepEqual([answered.event, answered.outcome], ["answered", "ok"]);
    assert.ok(answered.time_us >= asked.time_us && asked.time_us > (Date.now() - 120_000) * 1000);
    const a1 = audit.of("a1").map(({ subject, event }) => `${subject} ${event}`);
    assert.deepEqual(a1.sort(), [
      "ann answered",
      "ann asked",
      "ann repeated",
      "ann repeated",
      "eve answered",
      "eve asked",
    ]);
    // What the killed gateway asked for was answered through the other.
    assert.deepEqual(audit.events("slow"), ["asked", "asked", "answered", "repeated"]);
    for (const id of ["f1", "f2", "b1"]) assert.deepEqual(audit.events(id), ["refused"]);
    assert.ok(audit.of("b1")[0].detail.includes("hw.command"));
    // The names of programs are arguments; they are in the audit as a hash only.
    assert.ok(!audit.records.some((record) => JSON.stringify(record).includes("note-")));
    assert.equal(await second.metric("headwater_gateway_unaudited_total"), 0);
  },
  { limit: 180_000 },
);
