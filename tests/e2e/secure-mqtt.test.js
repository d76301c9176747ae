/** The relay's way to MQTT brokers: TLS, a certificate and a password of its own, several brokers, files renewed while it runs. */

import assert from "node:assert/strict";
import { copyFileSync } from "node:fs";
import { join } from "node:path";
import { startAgent } from "./harness/agent.js";
import { Authority } from "./harness/authority.js";
import { Kafka } from "./harness/kafka.js";
import { SecureMosquitto } from "./harness/mosquitto.js";
import { Relay } from "./harness/relay.js";
import { repository, scenario } from "./harness/site.js";
import { Telemetry } from "./harness/telemetry.js";
import { Trace } from "./harness/trace.js";
import { until } from "./harness/until.js";

const sensors = Trace.read(join(repository, "bench/data/sensors-1hz.csv"));
const [right, wrong] = ["opensesame-right", "opensesame-wrong"];

scenario(
  "TLS, certificate, password and two brokers: what is wrong is told, what is renewed is read, and the first broker comes first",
  async (site) => {
    const authority = new Authority(site, "authority");
    const stranger = new Authority(site, "stranger");
    const broker = () => SecureMosquitto.prepare(site, { authority, user: "relay", password: right });
    const [first, second] = [await broker(), await broker()];
    const [kafka] = await Promise.all([Kafka.start(site), second.start()]);
    // Everything is wrong, and the first broker is down; then one thing after the other is put right, in the same files.
    const ca = site.path("ca.pem");
    copyFileSync(stranger.cert, ca);
    const own = stranger.issue("relay");
    const password = site.write("password", `${wrong}\n`);
    const relay = await Relay.prepare(site, {
      kafka,
      settings: {
        mqtt: {
          broker: [first.secure.url, second.secure.url],
          return_after: "2s",
          user: "relay",
          password_file: password,
          tls: { ca_file: ca, cert_file: own.cert, key_file: own.key },
        },
      },
    });
    relay.launch();
    const readiness = async () => (await fetch(`${relay.admin}/readyz`)).text();
    const told = (what, pattern) => until(what, async () => pattern.test(await readiness()));
    await told(
      "the authority is told, and that the first is down",
      /Connection refused.*not among.*mqtt\.tls\.ca_file/,
    );
    copyFileSync(authority.cert, ca);
    await told("the refused certificate is told", /ended the TLS handshake .*relay\.crt/);
    authority.issue("relay");
    await told("the refused password is told", /refuses us: look at mqtt\.user and mqtt\.password_file/);
    site.write("password", `${right}\n`);
    await relay.untilReady();

    const telemetry = new Telemetry(site, kafka);
    const arrive = async (device, mosquitto) => {
      const trace = sensors.slice(site, `${device}.csv`, 0, 300);
      startAgent(site, { device, mosquitto, trace });
      await telemetry.untilCount(device, trace.count);
      telemetry.checkEquals(device, trace);
    };
    await arrive("at-second", second);
    const connected = () => relay.program.log().includes("going back from");
    await first.start();
    await until("the relay goes back to the first broker", connected);
    await arrive("at-first", first);
    await first.kill();
    await arrive("at-second-again", second);

    const shown = relay.program.log() + (await readiness());
    assert.ok(!shown.includes(right) && !shown.includes(wrong), "no password is ever shown");
    assert.equal((await relay.program.kill("SIGTERM")).code, 0);
  },
);
