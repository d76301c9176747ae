/** What watches a relay: /metrics as promtool wants it, and a Prometheus that gets data for all of deploy/grafana and deploy/prometheus. */

import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { copyFileSync, readFileSync } from "node:fs";
import { join } from "node:path";
import mqtt from "mqtt";
import { startAgent } from "./harness/agent.js";
import { endpoint } from "./harness/enrolment.js";
import { Kafka } from "./harness/kafka.js";
import { metricsPage } from "./harness/metricspage.js";
import { Mosquitto } from "./harness/mosquitto.js";
import { freePort } from "./harness/port.js";
import { Relay } from "./harness/relay.js";
import { topic } from "./harness/shard.js";
import { repository, scenario } from "./harness/site.js";
import { Trace } from "./harness/trace.js";
import { until } from "./harness/until.js";

const deploy = join(repository, "deploy");
const sensors = Trace.read(join(repository, "bench/data/sensors-1hz.csv"));

/** The dashboard's expressions, for all relays and a short time. */
function dashboardExpressions() {
  const { panels } = JSON.parse(
    readFileSync(join(deploy, "grafana/dashboards/headwater-relay.json"), "utf8"),
  );
  const values = { $job: "headwater-relay", $instance: ".+", $__rate_interval: "10s", $__range: "1m" };
  return panels
    .flatMap((panel) => panel.targets ?? [])
    .map(({ expr }) => expr.replace(/\$\w+/g, (name) => values[name] ?? assert.fail(`${name} in ${expr}`)));
}

/** What deploy/kubernetes goes by when it scales. */
function scalingExpressions() {
  const text = readFileSync(join(deploy, "kubernetes/scaled/scaling.yaml"), "utf8");
  return Array.from(text.matchAll(/^ +query: (.+)$/gm), ([, expression]) => expression);
}

/** Prometheus with deploy/prometheus as it stands, but for whom it scrapes and how often. */
async function prometheus(site, relay) {
  const port = await freePort();
  copyFileSync(join(deploy, "prometheus/headwater.rules.yml"), site.path("headwater.rules.yml"));
  const text = readFileSync(join(deploy, "prometheus/prometheus.yml"), "utf8");
  const config = text
    .replace("localhost:9464", new URL(relay.admin).host)
    .replace("scrape_interval: 15s", "scrape_interval: 1s\n  evaluation_interval: 1s");
  const program = site.start("prometheus", "prometheus", [
    `--config.file=${site.write("prometheus.yml", config)}`,
    `--storage.tsdb.path=${site.path("tsdb")}`,
    `--web.listen-address=127.0.0.1:${port}`,
  ]);
  const api = async (path) => {
    const answer = await (await fetch(`http://127.0.0.1:${port}/api/v1/${path}`)).json();
    assert.equal(answer.status, "success", `${path}: ${answer.error}`);
    return answer.data;
  };
  await program.ready("Prometheus answers", () => api("status/buildinfo"));
  return api;
}

scenario(
  "metrics pass promtool, every name in dashboard and rules is one of them, and queries of what was sampled have data",
  async (site) => {
    const [kafka, mosquitto] = await Promise.all([Kafka.start(site), Mosquitto.start(site)]);
    const plugs = { id: "plugs", topics: ["plugs/+"], device: "{1}", map: { format: "json" } };
    const authority = { directory: site.path("authority"), ports: { devices: 8883 } };
    const made = (...args) => execFileSync(join(deploy, "authority"), args, { stdio: "pipe" });
    made("init", authority.directory);
    made("endpoint", authority.directory, "127.0.0.1");
    const enroll = endpoint(site, authority, await freePort());
    const settings = { foreign: [plugs], rows: { enabled: true }, enroll };
    const relay = await Relay.start(site, { kafka, mosquitto, settings });
    const api = await prometheus(site, relay);
    const trace = sensors.slice(site, "trace.csv", 0, 300);
    const prometheusOfAgent = `127.0.0.1:${await freePort()}`;
    const control = { prometheus: prometheusOfAgent };
    const agent = startAgent(site, { device: "gw", mosquitto, trace, settings: { control } });
    const client = await mqtt.connectAsync(mosquitto.url);
    await client.publishAsync(topic("bad", "data"), Buffer.from("no frame"));
    await client.publishAsync("plugs/a", '{"power": 12.5}', { qos: 1 });
    await client.endAsync();
    const counted = async (name, count) => (await relay.metric(name)) >= count;
    await until("readings are counted", () => counted("headwater_bridge_readings_total", trace.count));
    await until("a foreign reading is counted", () => counted("headwater_foreign_readings_total", 1));
    await until("the dead letter is counted", () => counted("headwater_bridge_dead_letters_total", 1));

    const text = await (await fetch(`${relay.admin}/metrics`)).text();
    const lint = spawnSync("promtool", ["check", "metrics"], { input: text, encoding: "utf8" });
    assert.equal(lint.status, 0, `${lint.error ?? ""}${lint.stdout}${lint.stderr}`);

    const ofAgent = () => fetch(`http://${prometheusOfAgent}/metrics`).then((answer) => answer.text());
    const agents = await agent.ready("the agent's figures are there", ofAgent).then(ofAgent);
    const page = metricsPage({ relay: text, agent: agents });
    assert.equal(
      page.now,
      page.made,
      "docs/metrics.md is stale: HEADWATER_WRITE_PAGES=1 and this test again",
    );

    const rules = async () => (await api("rules")).groups.flatMap((group) => group.rules);
    await until("every rule is evaluated", async () =>
      (await rules()).every((rule) => rule.health !== "unknown"),
    );
    for (const rule of await rules()) assert.equal(rule.health, "ok", `${rule.name}: ${rule.lastError}`);

    // What has no samples has none on the page either: errors by kind, while there was none.
    const known = new Set(Array.from(text.matchAll(/^# TYPE (\S+)/gm), ([, name]) => name));
    const family = (name) => (known.has(name) ? name : name.replace(/_(bucket|count|sum)$/, ""));
    const names = (expression) => expression.match(/headwater_\w+/g) ?? [];
    const sampled = new Set((await relay.metrics()).map((sample) => sample.name));
    const scaling = scalingExpressions();
    assert.equal(scaling.length, 2);
    const expressions = [...dashboardExpressions(), ...scaling];
    assert.ok(expressions.length > 40, `${expressions.length} expressions`);
    for (const expression of [...expressions, ...(await rules()).map((rule) => rule.query)])
      for (const name of names(expression)) assert.ok(known.has(family(name)), `${name} in ${expression}`);
    let answered = 0;
    for (const expression of expressions) {
      if (!scaling.includes(expression) && !names(expression).every((name) => sampled.has(name))) continue;
      await until(`there is data for ${expression}`, async () => {
        const { result } = await api(`query?query=${encodeURIComponent(expression)}`);
        return result.length > 0;
      });
      answered += 1;
    }
    assert.ok(answered > expressions.length - 5, `${answered} of ${expressions.length} have data`);
  },
);
