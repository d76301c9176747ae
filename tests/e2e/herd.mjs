/**
 * Thousands of devices that say hello at once and then send a batch every few seconds each, through Mosquitto and one bridge into Kafka. Run by hand:
 *
 *   node tests/e2e/herd.mjs [--devices 10000] [--seconds 60] [--every 1] [--page FILE.png]
 *
 * It prints how long until all have their first answer and their first batch acknowledged, the bridge's memory and processor time, and
 * how long acknowledgements take (of one device in a hundred, from the first sending). HEADWATER_BIN=target/release measures what ships.
 *
 * With --page the relay is bridge and gateway, a client follows every batch, and the fleet's page is open in Chromium: it is scrolled while all devices
 * send, and its picture is written to the file.
 */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { Dashboard } from "./harness/browser.js";
import { Follower } from "./harness/follower.js";
import { Kafka } from "./harness/kafka.js";
import { Mosquitto } from "./harness/mosquitto.js";
import { Relay } from "./harness/relay.js";
import { scenario } from "./harness/site.js";
import { Swarm } from "./harness/swarm.js";
import { until } from "./harness/until.js";

const { values: options } = parseArgs({
  options: {
    devices: { type: "string", default: "10000" },
    seconds: { type: "string", default: "60" },
    every: { type: "string", default: "1" },
    page: { type: "string" },
  },
});
const [COUNT, SECONDS, EVERY] = [options.devices, options.seconds, options.every].map(Number);
// So many times a second the next share of the devices sends.
const PACE = 20;
const SHARES = PACE * EVERY;
const ROUNDS = Math.floor(SECONDS / EVERY);

/** MiB of a process's memory now, and at most so far. */
function memory(pid) {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  return ["VmRSS", "VmHWM"].map((key) => Number(new RegExp(`${key}:\\s+(\\d+)`).exec(status)[1]) / 1024);
}

/** Seconds of processor time of a process, at 100 ticks a second. */
function processor(pid) {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1].split(" ");
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

function percentile(values, share) {
  const sorted = values.toSorted((a, b) => a - b);
  return Math.round(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]);
}

/** Opens the page, waits until it knows all devices, and goes through its table. */
async function look(site, relay) {
  const opened = performance.now();
  const dashboard = await Dashboard.open(site, relay.page);
  const { page } = dashboard;
  // Digits are grouped as the reader's language has it.
  const found = async () => (await page.locator(".found").textContent({ timeout: 1000 })).replace(/\D/g, "");
  await until("the page knows all devices", async () => Number(await found()) === COUNT, 60_000);
  console.log(`the page knows ${COUNT} devices after ${Math.round(performance.now() - opened)} ms`);
  const first = () => page.locator("tr[data-device]").first().getAttribute("data-device");
  await until("rates are there", async () => (await dashboard.row(await first())).rate > 0);
  const longest = await dashboard.longestTask(() =>
    page.evaluate(async () => {
      for (let frame = 0; frame < 300; frame++) {
        await new Promise(requestAnimationFrame);
        scrollBy(0, frame % 50 < 40 ? 420 : -900);
      }
    }),
  );
  await page.screenshot({ path: options.page });
  const { "Ack window": window, Time: time } = await dashboard.inspector();
  console.log(`longest task while it was scrolled: ${longest.toFixed(1)} ms of its processor`, window, time);
  assert.ok(longest < 50, `a task of ${longest} ms`);
  dashboard.checkErrors();
}

scenario(
  `${COUNT} devices for ${SECONDS} s, a batch every ${EVERY} s each`,
  async (site) => {
    const [kafka, mosquitto] = await Promise.all([
      Kafka.start(site),
      Mosquitto.start(site, `max_queued_messages ${3 * COUNT}\n`),
    ]);
    const settings = { log: { level: "info" }, kafka: { partitions: 8 }, bridge: { state_interval: "2s" } };
    const relay = await Relay.start(site, {
      kafka,
      mosquitto,
      settings,
      part: options.page ? "run" : "bridge",
    });
    const { pid } = relay.program;
    const told = (text) => {
      const [now, most] = memory(pid).map((mib) => mib.toFixed(1));
      console.log(`${text}; memory ${now} MiB, at most ${most}`);
    };
    const follower = options.page && new Follower(site, { id: 1, mode: "ALL" });
    await follower?.follow(relay);
    const swarm = await Swarm.connect(site, mosquitto, { count: COUNT });
    told("before");
    const begun = performance.now();
    const since = () => `${Math.round(performance.now() - begun)} ms`;
    swarm.hello();
    swarm.sample();
    told(`all hellos are written after ${since()}`);
    await until("all are answered", () => swarm.answered === COUNT, 120_000);
    told(`all are answered after ${since()}`);
    await until("the first batches are acknowledged", () => swarm.waiting === 0, 120_000);
    told(`the first batch of each is acknowledged after ${since()}, ${swarm.resentBatches} sent again`);

    const seen = options.page && look(site, relay);
    swarm.delays.length = 0;
    const [used, from, devices] = [processor(pid), performance.now(), [...swarm.devices.values()]];
    for (let share = 0; share < ROUNDS * SHARES; share++) {
      const at = share % SHARES;
      swarm.sample(devices.slice((at * COUNT) / SHARES, ((at + 1) * COUNT) / SHARES));
      await sleep(Math.max(0, from + ((share + 1) * 1000) / PACE - performance.now()));
      if ((share + 1) % (60 * PACE) === 0) told(`after ${(share + 1) / PACE} s ${swarm.waiting} wait`);
    }
    const took = (performance.now() - from) / 1000;
    const share = Math.round(((processor(pid) - used) / took) * 100);
    told(
      `${Math.round((ROUNDS * COUNT) / took)} batches/s for ${Math.round(took)} s, ${share} % of a processor`,
    );
    await until("all is acknowledged", () => swarm.waiting === 0, 120_000);
    const [half, most] = [percentile(swarm.delays, 0.5), percentile(swarm.delays, 0.99)];
    console.log(
      `acknowledged after ${half} ms (half), ${most} ms (99 of 100); ${swarm.resentBatches} sent again`,
    );
    assert.equal(await relay.metric("headwater_bridge_batches_total"), (ROUNDS + 1) * COUNT);
    assert.equal(await relay.metric("headwater_bridge_devices_online"), COUNT);
    assert.equal(await relay.metric("headwater_bridge_mqtt_connects_total"), 1);
    assert.equal(swarm.disconnections, 0);
    if (!options.page) return;
    await seen;
    await until("the client has all", () => follower.batches.length >= (ROUNDS + 1) * COUNT, 120_000);
    const next = new Map();
    for (const { device, seq } of follower.batches) {
      assert.equal(Number(seq), next.get(device) ?? 1, `the next batch of ${device}`);
      next.set(device, Number(seq) + 1);
    }
    assert.equal(next.size, COUNT);
    assert.deepEqual(follower.gaps, []);
    console.log(`the client has all ${follower.batches.length} batches, each once, in order`);
  },
  { limit: SECONDS * 2000 + 300_000 },
);
