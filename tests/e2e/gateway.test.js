/**
 * A gateway without a battery, as it comes out of the box: a whole machine in qemu, aarch64 unless said, whose clock begins in 1970, the agent as it ships with
 * its settings' defaults, eight sensors at 1 Hz, to deploy/mosquitto's broker with a certificate of its own, which by that clock is not valid yet.
 *
 * HEADWATER_GATEWAY: another target (`scripts/cross --list`); HEADWATER_SYSROOT: where its libraries are, if it is a gnu one (a Debian's root).
 * HEADWATER_MEASURE: for how many seconds memory, processor and flash are looked at inside it, with the link up and as long without it (10).
 */

import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { DeployedMosquitto } from "./harness/deployed.js";
import { Gateway, ships, sysroot } from "./harness/gateway.js";
import { Kafka } from "./harness/kafka.js";
import { BROKER_PORT } from "./harness/machine.js";
import { Relay } from "./harness/relay.js";
import { scenario } from "./harness/site.js";
import { Telemetry } from "./harness/telemetry.js";

const DEVICE = "pole";
const MEASURE_S = Number(process.env.HEADWATER_MEASURE ?? 10);
const LIMIT = 300_000;
/** Some three times what it takes (CONTRIBUTING.md): of one core (TCG); KiB to the disk, a minute, and a segment's zeros with what ext4 says of them. */
const SHARE = 0.05;
/** With a shared glibc, of which more is touched than used, it takes a third more. */
const MEMORY_KIB = sysroot ? 5632 : 4096;
const FLASH_KIB = { minute: 12, once: 512 };
const CERTIFICATES = "etc/headwater/certificates";
/** What a clock that was set by `date` to a whole second may be off, microseconds. */
const OFF_US = 3_000_000;

const settings = {
  device: DEVICE,
  uplink: {
    broker: `mqtts://10.0.2.100:${BROKER_PORT}`,
    tls: {
      ca_file: `/${CERTIFICATES}/ca.pem`,
      cert_file: `/${CERTIFICATES}/device.pem`,
      key_file: `/${CERTIFICATES}/device.key`,
      server_name: "localhost",
    },
  },
  // The partition is a small one.
  journal: { max_bytes: "8 MiB" },
  source: [{ type: "simulated" }],
};

/** metric → [[microseconds, value]] of what the sensors said in a stream. */
function sensed(records) {
  return records.flatMap(({ columns }) =>
    Object.entries(columns)
      .filter(([metric]) => !metric.startsWith("agent."))
      .flatMap(([, { readings }]) => readings.map(([time]) => Number(time))),
  );
}

/** What the agent takes, as its machine sees it, over a while in which nobody asks it anything. */
async function measured(machine, process, what) {
  await machine.run("touch /run/quiet");
  const before = await machine.figures(process);
  await sleep(MEASURE_S * 1000);
  const after = await machine.figures(process);
  await machine.run("rm /run/quiet");
  const seconds = after.uptime - before.uptime;
  const [cpu, written] = [after.cpu - before.cpu, after.written - before.written];
  console.log(
    `${what}, ${seconds.toFixed(0)} s: memory ${after.rss} KiB, processor ${cpu.toFixed(2)} s ` +
      `(${((100 * cpu) / seconds).toFixed(1)} % of one core, TCG), to the disk ${written.toFixed(1)} KiB`,
  );
  return { rss: after.rss, share: cpu / seconds, written, seconds };
}

scenario(
  "a gateway that wakes up in 1970",
  async (site) => {
    const [kafka, broker] = await Promise.all([Kafka.start(site), DeployedMosquitto.start(site, [DEVICE])]);
    await Relay.start(site, { kafka, mosquitto: { url: `mqtt://127.0.0.1:${broker.ports.spy}` } });
    const telemetry = new Telemetry(site, kafka);
    const own = broker.files(DEVICE);
    const gateway = await Gateway.make(site, {
      name: DEVICE,
      mount: "own",
      settings: { agent: settings },
      files: {
        [`${CERTIFICATES}/ca.pem`]: own.ca_file,
        [`${CERTIFICATES}/device.pem`]: own.cert_file,
        [`${CERTIFICATES}/device.key`]: own.key_file,
      },
    });
    const boot = (variables) =>
      gateway.powerOn({
        broker: broker.ports.devices,
        settings: "agent",
        variables: { time_daemon: "none", ...variables },
        options: ["-rtc", "base=1970-01-01T00:00:00"],
      });
    const from = (stream) => telemetry.of(DEVICE).filter((record) => record.stream === stream);

    // It has to send before it knows the time: what it sends is flagged, and in order.
    const first = await boot({ HEADWATER_AGENT_CLOCK__HOLD: "1s", HEADWATER_AGENT_BATCH__AGE: "2s" });
    const early = await first.untilTold("the agent is connected", ({ stats }) => stats.connected, LIMIT);
    assert.equal(early.stats.clock.state, "unknown");
    const flagged = early.streams.at(-1).stream;
    await first.until("readings are in Kafka", () => sensed(from(flagged)).length >= 16, LIMIT);
    for (const { clock } of from(flagged)) assert.equal(clock, "CLOCK_UNCERTAIN");
    await gateway.cut("some");

    // It is told the time before it has to: what it had kept is put right.
    const machine = await boot();
    const waiting = await machine.untilTold(
      "readings wait",
      ({ stats }) => stats.connected && stats.waiting_readings >= 80,
      LIMIT,
    );
    const { stream } = waiting.streams.at(-1);
    assert.equal(waiting.stats.clock.synchronised, false);
    assert.equal(from(stream).length, 0, "they wait for the time");
    // As a time daemon does it.
    await machine.run(`date -s @${Math.round(Date.now() / 1000)}; touch /run/systemd/timesync/synchronized`);
    await machine.until(
      "what waited is in Kafka",
      () => sensed(from(stream)).length >= waiting.stats.waiting_readings,
      LIMIT,
    );
    telemetry.checkChain(DEVICE);
    const now = Date.now() * 1000;
    for (const { clock } of from(stream)) assert.equal(clock, "CLOCK_SYNCHRONISED");
    for (const time of sensed(from(stream))) {
      assert.ok(
        time >= machine.poweredOn * 1000 - OFF_US && time <= now + OFF_US,
        `${time} is between power-on and ${now}`,
      );
    }

    const process = waiting.pid;
    const online = await measured(machine, process, "connected by TLS, 8 sensors at 1 Hz");
    machine.link(false);
    const offline = await measured(machine, process, "without a link");
    for (const { rss, share, written, seconds } of [online, offline]) {
      if (ships) assert.ok(rss <= MEMORY_KIB, `${rss} KiB of memory`);
      assert.ok(share <= SHARE, `${share} of a core`);
      const most = FLASH_KIB.once + FLASH_KIB.minute * (seconds / 60);
      assert.ok(written <= most, `${written} KiB to the disk in ${seconds} s`);
    }
  },
  { limit: 900_000 + 2 * MEASURE_S * 1000 },
);
