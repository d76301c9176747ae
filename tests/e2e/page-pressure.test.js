/** The page where things are hard, on the whole path: a slow machine on a slow link, a hidden tab, a token that ends. Nothing is missed. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { startAgent } from "./harness/agent.js";
import { Dashboard } from "./harness/browser.js";
import { Kafka } from "./harness/kafka.js";
import { Mosquitto } from "./harness/mosquitto.js";
import { Relay } from "./harness/relay.js";
import { repository, scenario } from "./harness/site.js";
import { SlowLink } from "./harness/slowlink.js";
import { Telemetry } from "./harness/telemetry.js";
import { token } from "./harness/token.js";
import { Trace } from "./harness/trace.js";
import { until } from "./harness/until.js";

const sensors = Trace.read(join(repository, "bench/data/sensors-1hz.csv"));
const LIVE = { speed: 40, source: { times: "now" } };

async function path(site, settings) {
  const [kafka, mosquitto] = await Promise.all([Kafka.start(site), Mosquitto.start(site)]);
  const relay = await Relay.start(site, { kafka, mosquitto, settings });
  return { mosquitto, relay, telemetry: new Telemetry(site, kafka) };
}

/** The device's charts have as many readings of each metric as the trace, no more. */
async function holdsAll(dashboard, trace, limit = 90_000) {
  const expected = Object.fromEntries(
    Object.entries(trace.readings).map(([metric, all]) => [metric, all.length]),
  );
  let seen = {};
  try {
    await until(
      "the charts hold every reading",
      async () => {
        const charts = await dashboard.charts();
        seen = Object.fromEntries(Object.entries(charts).map(([metric, { points }]) => [metric, points]));
        return Object.entries(expected).every(([metric, points]) => seen[metric] >= points);
      },
      limit,
    );
  } finally {
    assert.deepEqual(seen, expected);
  }
}

/** What the page says of its connection stays this while `act` runs. */
async function stays(dashboard, state, act) {
  let over = false;
  const watch = (async () => {
    while (!over) {
      assert.equal(await dashboard.connection(), state);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  })();
  try {
    await Promise.race([act(), watch]);
  } finally {
    over = true;
  }
  await watch;
}

for (const [what, query, rate, slower] of [
  ["every reading", "", 1500, 8],
  ["buckets", "?minutes=60", 1500, 8],
  // As much as a bad radio link passes on: whole messages, and answers behind them, take seconds.
  ["every reading", "", 300, 1],
]) {
  scenario(
    `a machine ${slower} times slower on a link of ${rate} B/s, ${what}: the connection holds, and catches up`,
    async (site) => {
      const { mosquitto, relay, telemetry } = await path(site);
      const link = await SlowLink.start(site, relay.port);
      const dashboard = await Dashboard.open(site, `${link.page}#/device/dev${query}`);
      await dashboard.untilConnection("open");
      const cdp = await dashboard.page.context().newCDPSession(dashboard.page);
      await cdp.send("Emulation.setCPUThrottlingRate", { rate: slower });
      link.rate = rate;
      const trace = sensors.slice(site, "trace.csv", 0, 800);
      startAgent(site, { device: "dev", mosquitto, trace, ...LIVE });
      await stays(dashboard, "open", () => telemetry.untilCount("dev", trace.count));
      link.rate = Number.POSITIVE_INFINITY;
      await cdp.send("Emulation.setCPUThrottlingRate", { rate: 1 });
      await holdsAll(dashboard, trace);
      if (query) assert.match(await dashboard.page.textContent(".key"), /of every 4 s/);
      const { Session } = await dashboard.inspector();
      assert.equal(Session["Connections made"], "1");
      dashboard.checkErrors();
    },
    { limit: 300_000 },
  );
}

scenario(
  "a hidden tab is sent little, then nothing of the charts; looked at again, it has no hole",
  async (site) => {
    const { mosquitto, relay, telemetry } = await path(site);
    const dashboard = await Dashboard.open(site, `${relay.page}#/device/dev`);
    const trace = sensors.slice(site, "trace.csv", 0, 1600);
    startAgent(site, { device: "dev", mosquitto, trace, ...LIVE });
    await until("the charts are there", async () => Object.keys(await dashboard.charts()).length === 8);
    const hidden = (is) =>
      dashboard.page.evaluate((value) => {
        Object.defineProperty(document, "hidden", { value, configurable: true });
        Object.defineProperty(document, "visibilityState", {
          value: value ? "hidden" : "visible",
          configurable: true,
        });
        document.dispatchEvent(new Event("visibilitychange"));
      }, is);
    const subscriptions = () => relay.metric("headwater_gateway_subscriptions");
    assert.equal(await subscriptions(), 2);
    await hidden(true);
    await until("the charts' subscription ends", async () => (await subscriptions()) === 1, 45_000);
    await telemetry.untilCount("dev", trace.count);
    await hidden(false);
    await holdsAll(dashboard, trace);
    dashboard.checkErrors();
  },
  { limit: 300_000 },
);

scenario(
  "a token ends while the page is looked at: it asks for another, and has no hole",
  async (site) => {
    const secret = "a shared secret of some length, for tests";
    const { mosquitto, relay, telemetry } = await path(site, {
      gateway: { keys: [{ algorithm: "HS256", file: site.write("key", secret) }], tokens: { leeway: "0s" } },
    });
    const jwt = (seconds) =>
      token(secret, { sub: "wall", exp: Math.floor(Date.now() / 1000) + seconds, hw: { read: ["*"] } });
    const dashboard = await Dashboard.open(site, `${relay.page}?token=${jwt(20)}#/device/dev`);
    const trace = sensors.slice(site, "trace.csv", 0, 800);
    startAgent(site, { device: "dev", mosquitto, trace, ...LIVE });
    await dashboard.page.waitForSelector(".notice:has-text('Your token ends in')");
    await dashboard.page.waitForSelector("dialog.token:has-text('expired')");
    await dashboard.page.fill("dialog.token input", jwt(600));
    await dashboard.page.click("dialog.token button[type=submit]");
    await dashboard.untilConnection("open");
    await telemetry.untilCount("dev", trace.count);
    await holdsAll(dashboard, trace);
    dashboard.checkErrors();
  },
  { limit: 300_000 },
);
