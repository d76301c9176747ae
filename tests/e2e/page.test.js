/** The dashboard in headless Chromium, on the whole path. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { startAgent } from "./harness/agent.js";
import { Dashboard } from "./harness/browser.js";
import { Kafka } from "./harness/kafka.js";
import { Mosquitto } from "./harness/mosquitto.js";
import { Relay } from "./harness/relay.js";
import { repository, scenario } from "./harness/site.js";
import { Telemetry } from "./harness/telemetry.js";
import { token } from "./harness/token.js";
import { Trace } from "./harness/trace.js";
import { until } from "./harness/until.js";

const sensors = Trace.read(join(repository, "bench/data/sensors-1hz.csv"));
// Stamped from now on, so that they are inside of the charts' window; 40 times as fast as they were recorded.
const LIVE = { speed: 40, source: { times: "now" } };

async function path(site, settings) {
  const [kafka, mosquitto] = await Promise.all([Kafka.start(site), Mosquitto.start(site)]);
  const relay = await Relay.start(site, { kafka, mosquitto, settings });
  return { kafka, mosquitto, relay, telemetry: new Telemetry(site, kafka) };
}

/** Each chart has every reading of the trace, and ends with the value and the time that Kafka ends with. */
async function chartsHoldAll(dashboard, telemetry, device, trace) {
  const held = telemetry.readings(device);
  const expected = Object.fromEntries(
    Object.entries(trace.readings).map(([metric, column]) => {
      const value = Buffer.from(column.at(-1)[1], "hex").readDoubleBE();
      const timeMs = Number(held[metric].at(-1)[0]) / 1000;
      return [metric, { points: column.length, suspects: 0, value: String(value), timeMs }];
    }),
  );
  let seen;
  try {
    await until("the charts hold every reading", async () => {
      seen = await dashboard.charts();
      return Object.entries(expected).every(([metric, { points }]) => seen[metric]?.points >= points);
    });
  } finally {
    assert.deepEqual(seen, expected);
  }
}

scenario("what an agent samples appears in the page and equals what Kafka holds", async (site) => {
  const { mosquitto, relay, telemetry } = await path(site);
  const dashboard = await Dashboard.open(site, relay.page);
  await dashboard.untilConnection("open");
  const trace = sensors.slice(site, "trace.csv", 0, 400);
  startAgent(site, { device: "hall-1", mosquitto, trace, ...LIVE });
  await until("the fleet shows the device on line", async () => (await dashboard.row("hall-1"))?.online);
  await dashboard.page.click('tr[data-device="hall-1"] a');
  await until("the charts are there", async () => Object.keys(await dashboard.charts()).length === 8);
  const before = await dashboard.picture();
  await until("the chart moves", async () => (await dashboard.picture()) !== before);
  await telemetry.untilCount("hall-1", trace.count);
  await chartsHoldAll(dashboard, telemetry, "hall-1", trace);
  dashboard.checkErrors();
  // A page that comes later reads the same from the log.
  const late = await Dashboard.open(site, `${relay.page}#/device/hall-1`);
  await chartsHoldAll(late, telemetry, "hall-1", trace);
});

scenario("a page that stays open through three kills of the relay ends without a hole", async (site) => {
  const { mosquitto, relay, telemetry } = await path(site);
  const dashboard = await Dashboard.open(site, relay.page);
  const trace = sensors.slice(site, "trace.csv", 0, 800);
  startAgent(site, { device: "dev", mosquitto, trace, ...LIVE });
  await until("the fleet shows the device", async () => (await dashboard.row("dev"))?.online);
  await dashboard.device("dev");
  for (const share of [0.2, 0.4, 0.6]) {
    await telemetry.untilCount("dev", trace.count * share);
    await relay.program.kill("SIGKILL");
    await until(
      "the page says that the connection is gone",
      async () => (await dashboard.connection()) !== "open",
    );
    await relay.start();
    await dashboard.untilConnection("open");
  }
  await telemetry.untilCount("dev", trace.count);
  telemetry.checkChain("dev");
  await chartsHoldAll(dashboard, telemetry, "dev", trace);
  dashboard.checkErrors();
});

scenario("a page that stays open while Mosquitto is killed ends without a hole", async (site) => {
  const { mosquitto, relay, telemetry } = await path(site);
  const dashboard = await Dashboard.open(site, `${relay.page}#/device/dev`);
  const trace = sensors.slice(site, "trace.csv", 0, 400);
  startAgent(site, { device: "dev", mosquitto, trace, ...LIVE });
  await telemetry.untilCount("dev", trace.count * 0.3);
  await mosquitto.kill();
  await mosquitto.start();
  await telemetry.untilCount("dev", trace.count);
  await chartsHoldAll(dashboard, telemetry, "dev", trace);
  assert.equal(await dashboard.connection(), "open");
  dashboard.checkErrors();
});

scenario("a stopped agent is shown off line", async (site) => {
  const { mosquitto, relay } = await path(site);
  const dashboard = await Dashboard.open(site, relay.page);
  const trace = sensors.slice(site, "trace.csv", 0, 400);
  const agents = ["stopped", "killed"].map((device) =>
    startAgent(site, { device, mosquitto, trace, ...LIVE }),
  );
  const online = async (device, state) => (await dashboard.row(device))?.online === state;
  for (const device of ["stopped", "killed"]) {
    await until(`${device} is on line`, () => online(device, true));
  }
  await agents[0].kill("SIGTERM");
  await until("the one that said so is off line", () => online("stopped", false));
  // The broker sends the will of a connection that broke.
  await agents[1].kill("SIGKILL");
  await until("the one that broke is off line", () => online("killed", false));
  dashboard.checkErrors();
});

scenario("a relay with keys asks for a token, and takes the one in the address", async (site) => {
  const secret = "a shared secret of some length, for tests";
  const { mosquitto, relay } = await path(site, {
    gateway: { keys: [{ algorithm: "HS256", file: site.write("key", secret) }] },
  });
  const dashboard = await Dashboard.open(site, relay.page);
  await dashboard.page.waitForSelector("dialog.token input");
  const exp = Math.floor(Date.now() / 1000) + 600;
  await dashboard.page.fill("dialog.token input", token(secret, { sub: "wall", exp, hw: { read: ["*"] } }));
  await dashboard.page.click("dialog.token button[type=submit]");
  await dashboard.untilConnection("open");
  startAgent(site, { device: "dev", mosquitto, trace: sensors.slice(site, "trace.csv", 0, 100), ...LIVE });
  await until("the fleet shows the device", async () => (await dashboard.row("dev"))?.online);
  const jwt = token(secret, { sub: "wall", exp, hw: { read: ["dev"] } });
  const other = await Dashboard.open(site, `${relay.page}?token=${jwt}`);
  await until("the fleet shows the device", async () => (await other.row("dev"))?.online);
  assert.ok(!other.page.url().includes(jwt), "the token does not stay in the address");
});

scenario("it works at 390 pixels: nothing is cut off", async (site) => {
  const { mosquitto, relay } = await path(site);
  startAgent(site, { device: "dev", mosquitto, trace: sensors.slice(site, "trace.csv", 0, 400), ...LIVE });
  const dashboard = await Dashboard.open(site, relay.page, { width: 390, height: 844 });
  await until("the fleet shows the device", async () => (await dashboard.row("dev"))?.online);
  const overflow = () => dashboard.page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert.ok((await overflow()) <= 0, "the fleet fits");
  await dashboard.device("dev");
  await until("the charts are there", async () => Object.keys(await dashboard.charts()).length === 8);
  assert.ok((await overflow()) <= 0, "the charts fit");
  dashboard.checkErrors();
});

scenario("the page says what its connection does", async (site) => {
  const { mosquitto, relay, telemetry } = await path(site);
  const dashboard = await Dashboard.open(site, `${relay.page}#/device/dev`);
  const trace = sensors.slice(site, "trace.csv", 0, 400);
  startAgent(site, { device: "dev", mosquitto, trace, ...LIVE });
  await telemetry.untilCount("dev", trace.count);
  const records = telemetry.of("dev").length;
  await chartsHoldAll(dashboard, telemetry, "dev", trace);
  const figure = (text) => {
    const [, number, unit] = /^([\d.]+)\s*(\S*)/.exec(text.replaceAll(",", ""));
    return Number(number) * ({ KiB: 1024, MiB: 1024 ** 2, kB: 1e3, MB: 1e6, k: 1e3 }[unit] ?? 1);
  };
  let seen;
  await until("it has been told of the bytes on the wire", async () => {
    seen = await dashboard.inspector();
    return seen.Bytes["On the wire"] !== "not told";
  });
  assert.ok(figure(seen.Frames["In all"]) >= records, `${JSON.stringify(seen.Frames)}, ${records} records`);
  assert.ok(figure(seen.Frames.Acknowledgements) > 0, JSON.stringify(seen.Frames));
  assert.equal(seen.Bytes.Compression, "permessage-deflate");
  assert.ok(
    figure(seen.Bytes.Decoded) > 1000 && figure(seen.Bytes["On the wire"]) > 1000,
    JSON.stringify(seen.Bytes),
  );
  assert.match(seen["Ack window"].Frames, /^\d+ of \d+$/);
  assert.match(seen.Time["Sample → screen"], /\d/);
  // The fleet: seen a moment ago, and nothing waits.
  await dashboard.page.goto(relay.page);
  await until("nothing of it waits any more", async () => (await dashboard.row("dev"))?.waiting === 0);
  assert.match((await dashboard.row("dev")).seen, /now|\d+ ?(ms|s)/);
  dashboard.checkErrors();
});

scenario("it is dark or light as the system is, until it is told", async (site) => {
  const { relay } = await path(site);
  const dashboard = await Dashboard.open(site, relay.page);
  await dashboard.page.emulateMedia({ colorScheme: "dark" });
  await until("it is dark", async () => (await dashboard.brightness()) < 0.3);
  await dashboard.page.emulateMedia({ colorScheme: "light" });
  await until("it is light", async () => (await dashboard.brightness()) > 0.7);
  await dashboard.page.click('button[aria-label="Dark colours"]');
  await until("it is dark again", async () => (await dashboard.brightness()) < 0.3);
  await dashboard.page.reload();
  await until("it stays dark", async () => (await dashboard.brightness()) < 0.3);
  dashboard.checkErrors();
});
