/** Kafka as people run it: TLS, and each way of SASL that the relay's client speaks. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { startAgent } from "./harness/agent.js";
import { Kafka } from "./harness/kafka.js";
import { Mosquitto } from "./harness/mosquitto.js";
import { Relay } from "./harness/relay.js";
import { repository, scenario } from "./harness/site.js";
import { Telemetry } from "./harness/telemetry.js";
import { Trace } from "./harness/trace.js";
import { until } from "./harness/until.js";

const sensors = Trace.read(join(repository, "bench/data/sensors-1hz.csv"));

/** A token as the broker's unsecured validator takes it: RFC 7519, section 6. */
function unsecured(claims) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  return `${part({ alg: "none" })}.${part(claims)}.`;
}

/** What `[kafka]` needs for a mechanism. */
function settings(kafka, mechanism, secret) {
  const common = {
    bootstrap: kafka.saslSsl,
    timeout: "3s",
    properties: {
      "security.protocol": "SASL_SSL",
      "sasl.mechanism": mechanism,
      "ssl.ca.location": join(kafka.data, "ca.pem"),
    },
  };
  if (mechanism === "OAUTHBEARER") return { ...common, token_file: secret };
  common.properties["sasl.username"] = "relay";
  return { ...common, secrets: { "sasl.password": secret } };
}

scenario(
  "TLS with PLAIN, SCRAM and OAUTHBEARER: readings get to Kafka, and a token is read again before it expires",
  async (site) => {
    const [kafka, mosquitto] = await Promise.all([
      Kafka.start(site, { secure: true }),
      Mosquitto.start(site),
    ]);
    const password = site.write("password", "relay-secret\n");
    const seconds = () => Math.floor(Date.now() / 1000);
    // It is valid for ten seconds, so that it has to be read again while the relay runs.
    const token = (life) => unsecured({ sub: "relay", iat: seconds(), exp: seconds() + life });
    const tokenFile = site.write("token", token(10));
    const telemetry = new Telemetry(site, kafka);
    for (const [mechanism, secret] of [
      ["PLAIN", password],
      ["SCRAM-SHA-512", password],
      ["OAUTHBEARER", tokenFile],
    ]) {
      if (mechanism === "OAUTHBEARER") site.write("token", token(10));
      const relay = await Relay.start(site, {
        kafka,
        mosquitto,
        settings: { kafka: settings(kafka, mechanism, secret) },
      });
      const device = mechanism.toLowerCase();
      const trace = sensors.slice(site, `${device}.csv`, 0, 300);
      startAgent(site, { device, mosquitto, trace });
      await telemetry.untilCount(device, trace.count);
      telemetry.checkEquals(device, trace);
      if (mechanism === "OAUTHBEARER") {
        site.write("token", token(3600));
        await new Promise((resolve) => setTimeout(resolve, 12_000));
        const later = sensors.slice(site, "later.csv", 300, 600);
        startAgent(site, { device: "later", mosquitto, trace: later });
        await telemetry.untilCount("later", later.count);
        assert.equal((await fetch(`${relay.admin}/readyz`)).ok, true);
      }
      assert.equal((await relay.program.kill("SIGTERM")).code, 0);
    }
  },
);

scenario("a wrong password and an unknown authority are told, and are waited out", async (site) => {
  const [kafka, mosquitto] = await Promise.all([Kafka.start(site, { secure: true }), Mosquitto.start(site)]);
  const wrong = site.write("wrong", "not-the-secret\n");
  const refused = settings(kafka, "SCRAM-SHA-512", wrong);
  const relay = await Relay.prepare(site, { kafka, mosquitto, settings: { kafka: refused } });
  relay.launch();
  const readiness = async () => (await fetch(`${relay.admin}/readyz`)).text();
  await until("readyz names the refusal", async () => /authentication failed/i.test(await readiness()));
  assert.equal(relay.program.exited, undefined, "it goes on trying");
  await relay.program.kill("SIGTERM");

  const stranger = settings(kafka, "SCRAM-SHA-512", site.write("password", "relay-secret\n"));
  delete stranger.properties["ssl.ca.location"];
  const other = await Relay.prepare(site, { kafka, mosquitto, settings: { kafka: stranger } });
  other.launch();
  await until("readyz names the certificate", async () =>
    /certificate verify failed/i.test(await (await fetch(`${other.admin}/readyz`)).text()),
  );
});
