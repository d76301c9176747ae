/**
 * Devices' certificates, as docs/provisioning.md tells: cards are provisioned, machines boot with them, enrol, send, renew, are revoked;
 * and what an endpoint on a public address has to bear.
 */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { X509Certificate } from "node:crypto";
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { request } from "node:https";
import { connect as tcp } from "node:net";
import { dirname, join } from "node:path";
import { connect as tls } from "node:tls";
import { DeployedMosquitto } from "./harness/deployed.js";
import { endpoint, fleet, Machine } from "./harness/enrolment.js";
import { Kafka } from "./harness/kafka.js";
import { freePort } from "./harness/port.js";
import { Relay } from "./harness/relay.js";
import { binaries, repository, scenario } from "./harness/site.js";
import { Telemetry } from "./harness/telemetry.js";
import { until } from "./harness/until.js";

const PATIENCE = 60_000;
const SOURCES = '[[source]]\ntype = "simulated"\ninterval = "100ms"\n';

/** Sends a request to the endpoint: status and what it says. */
function post(url, { ca, path, headers = {}, body, cert, key }) {
  return new Promise((resolve, reject) => {
    const call = request(
      `${url}${path}`,
      { method: "POST", ca, headers, cert, key, agent: false },
      (answer) => {
        let text = "";
        answer.on("data", (data) => {
          text += data;
        });
        answer.on("end", () => resolve({ status: answer.statusCode, text }));
      },
    );
    call.on("error", reject);
    call.end(body);
  });
}

scenario(
  "from cards to readings, renewed under way, revoked, and let in again",
  async (site) => {
    const kafka = await Kafka.start(site);
    const broker = await DeployedMosquitto.start(site, []);
    const port = await freePort();
    const of = (file) => join(broker.directory, "relay", file);
    const releaseKey = site.path("release.pem");
    execFileSync("openssl", ["genpkey", "-algorithm", "ed25519", "-out", releaseKey]);
    const print = ["release", "key", releaseKey];
    const releases = execFileSync(join(binaries, "headwater-relay"), print, { encoding: "utf8" }).trim();
    const relay = await Relay.start(site, {
      kafka,
      settings: {
        mqtt: {
          broker: `mqtts://127.0.0.1:${broker.ports.relay}`,
          tls: { ca_file: of("services-ca.crt"), cert_file: of("relay.crt"), key_file: of("relay.key") },
        },
        enroll: endpoint(site, broker, port, { lifetime: "90s", update_keys: [releases] }),
      },
    });
    const sources = site.write("sources.toml", SOURCES);
    const cards = site.path("cards");
    const provision = ["provision", "--count", "2", "--name", "gw-{:02}", "--out", cards];
    const said = fleet(relay, ...provision, "--settings", sources);
    assert.match(said, /2 devices, gw-01 to gw-02/);
    assert.deepEqual(readdirSync(cards).sort(), ["gw-01", "gw-02", "labels.csv"]);
    assert.match(
      readFileSync(join(cards, "labels.csv"), "utf8"),
      /^device,token_expires,file\ngw-01,2\d{3}-\d\d-\d\d,gw-01/,
    );
    assert.throws(() => fleet(relay, ...provision), /gw-01 is known already/);
    assert.match(fleet(relay, "list"), /gw-01 +token waits/);

    const machines = ["gw-01", "gw-02"].map(
      (name) => new Machine(site, name, join(cards, name, "headwater.toml")),
    );
    const token = readFileSync(join(cards, "gw-01", "headwater.toml"), "utf8").match(/token = "([^"]+)"/)[1];
    for (const machine of machines) {
      assert.equal(await machine.boot(), 0, machine.read("boot/headwater.error.txt"));
      assert.deepEqual(readdirSync(machine.path("boot")), ["headwater.taken.toml"]);
      assert.equal(statSync(machine.path("state/tls/device.key")).mode & 0o777, 0o600);
      assert.equal(machine.certificate().subject, `CN=${machine.name}`);
      // So it can be updated over the air.
      assert.ok(machine.read("etc/agent.toml").includes(`[update]\nkeys = ["${releases}"]\n`));
      assert.deepEqual(readdirSync(machine.path("state/tls")).sort(), [
        "ca.crt",
        "device.crt",
        "device.key",
        "endpoint-ca.pem",
      ]);
    }
    // The token is nowhere any more: neither on the machine, nor where tokens are known.
    const found = execFileSync("grep", ["-rl", token, site.directory], { encoding: "utf8" }).trim();
    assert.equal(found, join(cards, "gw-01", "headwater.toml"));

    const [first, second] = machines;
    const serials = machines.map((machine) => machine.serial());
    const telemetry = new Telemetry(site, kafka);
    for (const machine of machines) machine.run();
    await telemetry.untilCount("gw-01", 100, PATIENCE);
    assert.match(fleet(relay, "list"), /gw-01 +enrolled/);
    for (const [n, machine] of machines.entries()) {
      await until(
        `${machine.name} has renewed`,
        () => machine.serial() !== serials[n] && machine.program.log().includes("has renewed"),
        2 * PATIENCE,
      );
    }
    assert.ok(
      first
        .certificate()
        .checkPrivateKey((await import("node:crypto")).createPrivateKey(first.read("state/tls/device.key"))),
    );
    // Readings go on, over a connection with the new certificate, and none is missing.
    const before = telemetry.count("gw-01");
    await telemetry.untilCount("gw-01", before + 100, PATIENCE);
    assert.equal(
      await relay.metric("headwater_enroll_requests_total", { request: "renew", outcome: "failed" }),
      0,
    );
    assert.ok(
      (await relay.metric("headwater_enroll_requests_total", { request: "renew", outcome: "issued" })) >= 2,
    );

    // Lost.
    assert.match(fleet(relay, "revoke", "gw-01"), /gw-01 is revoked: [2-9] certificate/);
    broker.program.child.kill("SIGHUP");
    const csr = site.path("gw-01.csr");
    assert.equal((await first.enroll("--csr", csr)).code, 0);
    const files = ["ca.crt", "device.crt", "device.key"].map((file) => first.read(`state/tls/${file}`));
    const [ca, cert, key] = files;
    const renewal = await post(`https://127.0.0.1:${port}`, {
      ca,
      cert,
      key,
      path: "/v1/renew",
      body: readFileSync(csr),
    });
    assert.deepEqual([renewal.status, /revoked/.test(renewal.text)], [403, true], renewal.text);
    const mark = first.program.log().length;
    await broker.restart();
    await until(
      "the broker has turned the lost one away",
      () => /revoked/.test(first.program.log().slice(mark)),
      PATIENCE,
    );
    assert.match(fleet(relay, "list"), /gw-01 +revoked/);
    const barred = await first.enroll("--token", fleet(relay, "token", "gw-01"));
    assert.ok(barred.code === 1 && barred.said.includes("gw-01 is revoked"), barred.said);
    // The other one is none the worse for it.
    await telemetry.untilCount("gw-02", telemetry.count("gw-02") + 20, PATIENCE);

    // Found again.
    fleet(relay, "allow", "gw-01");
    const letIn = await first.enroll("--token", fleet(relay, "token", "gw-01"));
    assert.equal(letIn.code, 0, letIn.said);
    await telemetry.untilCount("gw-01", telemetry.count("gw-01") + 20, PATIENCE);
    for (const machine of machines) {
      assert.equal((await machine.program.kill("SIGTERM")).code, 0);
      telemetry.checkChain(machine.name);
    }
    assert.ok(second.certificate());
  },
  { limit: 400_000 },
);

scenario("an endpoint that is away at the first boot is waited for by the agent", async (site) => {
  const broker = await DeployedMosquitto.start(site, []);
  const port = await freePort();
  const relay = await Relay.prepare(site, {
    kafka: { bootstrap: "127.0.0.1:1" },
    part: "enroll-server",
    settings: { enroll: endpoint(site, broker, port) },
  });
  const cards = site.path("cards");
  fleet(relay, "provision", "--count", "1", "--out", cards);
  const machine = new Machine(site, "gw-0001", join(cards, "gw-0001/headwater.toml"));
  assert.equal(await machine.boot(1), 1);
  assert.match(machine.read("boot/headwater.error.txt"), /Not enrolled yet: .*What to do: nothing/s);
  assert.equal(machine.read("boot/headwater.toml"), undefined);
  machine.run();
  await until(
    "the agent tries",
    () => machine.program.log().includes("no certificate from the relay"),
    PATIENCE,
  );
  await relay.start();
  await until("the agent is enrolled", () => machine.program.log().includes("is enrolled"), PATIENCE);
  assert.equal(machine.read("state/tls/token"), undefined);
  // The next start clears up what is no longer so.
  assert.equal(await machine.boot(1), 0);
  assert.deepEqual(readdirSync(machine.path("boot")), ["headwater.taken.toml"]);
  await machine.program.kill("SIGTERM");

  // Another endpoint beside this one is refused.
  const other = await Relay.prepare(site, {
    kafka: { bootstrap: "127.0.0.1:1" },
    part: "enroll-server",
    settings: { enroll: endpoint(site, broker, await freePort()) },
  });
  other.launch();
  assert.equal((await other.program.exit).code, 1);
  assert.match(other.program.log(), /the endpoint runs once/);
});

scenario(
  "a first boot that is killed at any time goes on at the next",
  async (site) => {
    const broker = await DeployedMosquitto.start(site, []);
    const port = await freePort();
    const relay = await Relay.start(site, {
      kafka: { bootstrap: "127.0.0.1:1" },
      part: "enroll-server",
      settings: { enroll: endpoint(site, broker, port, { per_address: 10_000 }) },
    });
    const cards = site.path("cards");
    fleet(relay, "provision", "--count", "12", "--out", cards);
    for (let n = 1; n <= 12; n++) {
      const name = `gw-00${String(n).padStart(2, "0")}`;
      const machine = new Machine(site, name, join(cards, name, "headwater.toml"));
      // Each kill comes a little later in its life than the one before.
      let kills = 0;
      for (let delay = n % 4; !machine.certificate() && kills < 30; delay += 4, kills++) {
        const boot = machine.firstBoot();
        const timer = setTimeout(() => boot.child.kill("SIGKILL"), delay);
        await boot.exit;
        clearTimeout(timer);
      }
      assert.equal(await machine.boot(), 0, machine.read("boot/headwater.error.txt"));
      assert.deepEqual(readdirSync(machine.path("boot")), ["headwater.taken.toml"]);
      assert.equal(machine.certificate().subject, `CN=${name}`);
      assert.equal(machine.read("state/tls/token"), undefined);
    }
    // However often they asked, each was given one certificate.
    const devices = readdirSync(site.path("register/devices"));
    assert.equal(devices.length, 12);
    for (const device of devices) {
      assert.equal(readdirSync(site.path(`register/devices/${device}`)).length, 1, device);
    }
  },
  { limit: 300_000 },
);

scenario("a first boot makes durable what a power cut would need, before it goes on", async (site) => {
  const broker = await DeployedMosquitto.start(site, []);
  const relay = await Relay.prepare(site, {
    kafka: { bootstrap: "127.0.0.1:1" },
    part: "enroll-server",
    settings: { enroll: endpoint(site, broker, await freePort()) },
  });
  const cards = site.path("cards");
  fleet(relay, "provision", "--count", "1", "--out", cards);
  const machine = new Machine(site, "gw-0001", join(cards, "gw-0001/headwater.toml"));
  const text = machine.read("boot/headwater.toml");
  const preload = site.path("syncs.so");
  const source = join(repository, "tests/e2e/harness/syncs.c");
  execFileSync("cc", ["-shared", "-fPIC", "-o", preload, source]);
  const folder = site.path("syncs");
  mkdirSync(folder);
  Object.assign(machine.env, { LD_PRELOAD: preload, SYNCS: folder });
  // Nobody answers: all of it comes before that.
  assert.equal(await machine.boot(0), 1);
  const read = (name) => readFileSync(join(folder, name), "utf8");
  const synced = readdirSync(folder)
    .filter((name) => name.endsWith(".path"))
    .map((name) => ({
      path: read(name).replace(`${machine.root}/`, ""),
      content:
        existsSync(join(folder, name.replace("path", "content"))) && read(name.replace("path", "content")),
    }));
  // Each file beside its place, by its new name (FAT writes its length with that), and its folder; of a new folder the one above.
  const placed = (file) => [`${file}.part`, file, dirname(file)];
  assert.deepEqual(
    synced.map(({ path }) => path),
    [
      "state",
      ...placed("state/tls/token"),
      ...placed("etc/agent.toml"),
      ...placed("boot/headwater.taken.toml"),
      ...["boot/headwater.toml", "boot/headwater.toml", "boot"],
      ...placed("state/tls/device.key"),
      ...placed("state/tls/endpoint-ca.pem"),
      ...placed("boot/headwater.error.txt"),
    ],
  );
  // The card's file: of its first sector alone it is known that it was taken; then nothing is left of it.
  const [marked, blank] = synced.filter(({ path }) => path === "boot/headwater.toml");
  assert.match(marked.content.slice(0, 512), /^# This was taken over, and can be removed\.\n *$/);
  assert.equal(marked.content.slice(512), text.slice(512));
  assert.equal(blank.content.trim(), marked.content.slice(0, 512).trim());
  assert.equal(blank.content.length, text.length);
});

scenario("nobody gets a certificate by asking badly, nor keeps others from theirs", async (site) => {
  const broker = await DeployedMosquitto.start(site, []);
  const port = await freePort();
  const relay = await Relay.start(site, {
    kafka: { bootstrap: "127.0.0.1:1" },
    part: "enroll-server",
    settings: { enroll: endpoint(site, broker, port, { per_address: 60 }) },
  });
  const url = `https://127.0.0.1:${port}`;
  const authority = readFileSync(broker.ca, "utf8");
  const cards = site.path("cards");
  fleet(relay, "provision", "--count", "3", "--out", cards);
  const make = (name) => new Machine(site, name, join(cards, name, "headwater.toml"));
  const [good, bad, other] = ["gw-0001", "gw-0002", "gw-0003"].map(make);
  const tokenOf = (machine) => machine.read("boot/headwater.toml").match(/token = "([^"]+)"/)[1];
  const tokens = [good, bad, other].map(tokenOf);
  // What opens connections from one address and says nothing, or says it slowly, holds nobody up.
  let closed = 0;
  const from = { port, host: "127.0.0.1", localAddress: "127.0.0.2" };
  const idle = Array.from({ length: 300 }, () => tcp(from).on("error", () => {}));
  for (const socket of idle) {
    socket.resume();
    socket.on("close", () => {
      closed++;
    });
  }
  const slow = tls({ port, host: "127.0.0.1", ca: authority }).on("error", () => {});
  slow.write("POST /v1/enroll HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n");
  site.onClose(() =>
    [...idle, slow].forEach((socket) => {
      socket.destroy();
    }),
  );
  await until("what is over its share is closed", () => closed >= 300 - 32, 5_000);
  const asked = Date.now();
  assert.equal(await good.boot(), 0, good.read("boot/headwater.error.txt"));
  assert.ok(Date.now() - asked < 8_000, `${Date.now() - asked} ms`);
  assert.ok(closed < 300, "it was let in beside them");

  // Tokens of others, used ones, none.
  const csr = (machine) => {
    const path = site.path(`${machine.name}.csr`);
    return machine.enroll("--csr", path).then(({ code, said }) => {
      assert.equal(code, 0, said);
      return readFileSync(path);
    });
  };
  writeFileSync(bad.config, bad.read("boot/headwater.toml").replace(tokens[1], ""));
  const of = (token) => ({ authorization: `Bearer ${token}` });
  const request = await csr(bad);
  const ask = (options) => post(url, { ca: authority, path: "/v1/enroll", body: request, ...options });
  for (const [options, status, part] of [
    [{ headers: of(tokens[0]) }, 401, "not for a device called gw-0002"],
    [{ headers: of(tokens[2]) }, 401, "not for a device called gw-0002"],
    [{ headers: of("x".repeat(43)) }, 401, "not known"],
    [{}, 401, "not known"],
    [{ headers: of(tokens[1]), body: "garbage" }, 400, "no signing request"],
    [{ headers: of(tokens[1]), body: "x".repeat(20_000) }, 413, ""],
    [{ path: "/v1/renew" }, 401, "none was shown"],
    [{ path: "/v1/other" }, 404, ""],
  ]) {
    const answer = await ask(options).catch((error) => {
      // What is too long is not read to its end.
      if (status === 413 && ["ECONNRESET", "EPIPE"].includes(error.code)) return { status, text: "" };
      throw error;
    });
    assert.ok(answer.status === status && answer.text.includes(part), `${status} ${part}: ${answer.text}`);
  }
  const used = await ask({ headers: of(tokens[0]), body: await csr(good) });
  assert.equal(used.status, 200, "a repeat with its own key is given the same again");
  assert.equal(new X509Certificate(JSON.parse(used.text).certificate).serialNumber, good.serial());

  // Someone else's endpoint is not trusted, and learns no token; the pin of the right one is enough.
  const stranger = broker.devices.cert;
  const refused = await bad.enroll("--token", tokens[1], "--ca", stranger, "--wait", "0");
  assert.ok(refused.code === 1 && refused.said.includes("enroll.ca"), refused.said);
  const digest = new X509Certificate(authority).fingerprint256;
  const wrong = digest.replace(/^../, (byte) => (byte === "00" ? "01" : "00"));
  const mispinned = await bad.enroll("--token", tokens[1], "--pin", `sha256:${wrong}`, "--wait", "0");
  assert.ok(mispinned.code === 1 && mispinned.said.includes("enroll.pin"), mispinned.said);
  const plain = await bad.enroll("--token", tokens[1], "--url", "http://relay.example", "--wait", "0");
  assert.ok(plain.code === 1 && plain.said.includes("is not https"), plain.said);
  writeFileSync(site.path("token"), `${tokens[1]}\n`, { mode: 0o600 });
  const pinned = await bad.enroll("--token-file", site.path("token"), "--pin", `sha256:${digest}`);
  assert.equal(pinned.code, 0, pinned.said);
  assert.equal(bad.certificate().subject, "CN=gw-0002");

  // An authority of the operator's own, by files.
  writeFileSync(other.config, other.read("boot/headwater.toml").replace(tokens[2], ""));
  const requested = site.path("gw-0003.csr");
  await csr(other);
  const signed = site.path("gw-0003.crt");
  const extensions = site.write("client.ext", "extendedKeyUsage = clientAuth\nbasicConstraints = CA:FALSE\n");
  const sign = ["x509", "-req", "-in", requested, "-CA", broker.devices.cert, "-CAkey", broker.devices.key];
  execFileSync(
    "openssl",
    [...sign, "-set_serial", "7", "-days", "30", "-extfile", extensions, "-out", signed],
    {
      stdio: "pipe",
    },
  );
  const foreign = await other.enroll("--certificate", join(good.root, "state/tls/device.crt"));
  assert.ok(foreign.code === 1 && foreign.said.includes("is not that of the certificate"), foreign.said);
  const taken = await other.enroll("--certificate", signed, "--ca", broker.ca);
  assert.equal(taken.code, 0, taken.said);
  assert.equal(other.certificate().serialNumber, "07");

  // A card that was lost before it was used.
  assert.match(fleet(relay, "withdraw", "gw-0003"), /1 token\(s\) for gw-0003/);
  const withdrawn = await ask({ headers: of(tokens[2]), body: readFileSync(requested) });
  assert.ok(withdrawn.status === 401 && withdrawn.text.includes("not known"), withdrawn.text);

  // A used token, on a card that somebody copied.
  const copy = new Machine(site, "copy", join(cards, "gw-0001/headwater.toml"));
  assert.equal(await copy.boot(0), 1);
  assert.match(copy.read("boot/headwater.error.txt"), /has been used already.*What to do: ask the operator/s);
  assert.equal(copy.certificate(), undefined);

  // The limit of one address.
  const answers = [];
  while (answers.at(-1)?.status !== 429 && answers.length < 150) answers.push(await ask({}));
  assert.equal(answers.at(-1).status, 429);
  const log = relay.program.log();
  for (const token of tokens) assert.ok(!log.includes(token), "no token is logged");
  assert.match(log, /a certificate was given.*device=gw-0001|device=gw-0001.*a certificate was given/);
  rmSync(cards, { recursive: true });
  cpSync(site.path("register"), site.path("copied"), { recursive: true });
  for (const token of tokens) {
    assert.throws(() => execFileSync("grep", ["-r", token, site.path("copied")], { stdio: "pipe" }));
  }
});
