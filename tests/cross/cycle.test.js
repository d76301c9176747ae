/**
 * The agent as ARM machines run it, under qemu's user emulation, from its journal to Kafka and back: over TLS with a certificate of its
 * own, to Mosquitto by deploy/mosquitto's rules, through the real relay. What runs is what ships: what `scripts/cross` has built.
 *
 * HEADWATER_CROSS: the targets, with spaces between them. HEADWATER_SYSROOT: as in emulated.js.
 */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { startAgent } from "../e2e/harness/agent.js";
import { DeployedMosquitto } from "../e2e/harness/deployed.js";
import { Kafka } from "../e2e/harness/kafka.js";
import { Relay } from "../e2e/harness/relay.js";
import { repository, scenario } from "../e2e/harness/site.js";
import { Telemetry } from "../e2e/harness/telemetry.js";
import { Trace } from "../e2e/harness/trace.js";
import { emulated } from "./emulated.js";

const targets = (process.env.HEADWATER_CROSS ?? "").split(" ").filter(Boolean);
const sensors = Trace.read(join(repository, "bench/data/sensors-1hz.csv"));
const LIMIT = 180_000;

/** One box of a target's kind. */
class Box {
  constructor(site, target) {
    Object.assign(this, { site, target, device: `gw-${target.split("-")[0]}` });
    this.program = emulated(site, target);
    this.state = site.path(this.device);
  }

  start(mosquitto) {
    this.agent = startAgent(this.site, {
      device: this.device,
      mosquitto: { url: `mqtts://127.0.0.1:${mosquitto.ports.devices}` },
      trace: sensors,
      // Many small batches, so that the journal has several segments.
      batch: { readings: 24 },
      uplink: { tls: mosquitto.files(this.device), ack_timeout: "5s" },
      settings: { state_dir: this.state, journal: { sync_after: "0s" } },
      program: this.program,
    });
  }

  segments() {
    return readdirSync(join(this.state, "journal")).filter((name) => name.endsWith(".segment")).length;
  }

  /** `journal inspect`, run under qemu as well: its lines for streams, column → value. */
  inspect() {
    const shown = execFileSync(this.program, ["journal", "inspect", "--dir", this.state], {
      encoding: "utf8",
    });
    const [head, ...rows] = shown.split("\n\n")[0].trimEnd().split("\n");
    const names = head.trim().split(/\s+/);
    return rows.map((row) =>
      Object.fromEntries(
        row
          .trim()
          .split(/\s+/)
          .slice(0, names.length)
          .map((value, n) => [names[n], value]),
      ),
    );
  }
}

assert.ok(targets.length > 0, "HEADWATER_CROSS names no target");

scenario(
  `publish, acknowledge, prune over TLS: ${targets.join(", ")}`,
  async (site) => {
    const boxes = targets.map((target) => new Box(site, target));
    const devices = boxes.map(({ device }) => device);
    const [kafka, mosquitto] = await Promise.all([Kafka.start(site), DeployedMosquitto.start(site, devices)]);
    const telemetry = new Telemetry(site, kafka);

    // Nobody acknowledges yet: all of it comes to lie on flash.
    for (const box of boxes) box.start(mosquitto);
    for (const box of boxes) {
      await box.agent.ready("the trace has been read", () => box.agent.log().includes("has ended"), LIMIT);
      const waiting = () => box.inspect().reduce((sum, stream) => sum + Number(stream.readings), 0);
      await box.agent.ready("all of it is on flash", () => waiting() === sensors.count, LIMIT);
      const [stream, ...others] = box.inspect();
      assert.equal(others.length, 0, "one start, one stream");
      assert.equal(stream.acknowledged, "0");
      assert.ok(box.segments() >= 2, `${box.segments()} segments are full of it`);
      const command = readFileSync(`/proc/${box.agent.pid}/cmdline`, "utf8");
      assert.match(command, /^qemu-/);
    }

    const relay = await Relay.prepare(site, {
      kafka,
      settings: {
        mqtt: {
          broker: `mqtts://127.0.0.1:${mosquitto.ports.relay}`,
          tls: {
            ca_file: mosquitto.ca,
            cert_file: join(mosquitto.directory, "relay/relay.crt"),
            key_file: join(mosquitto.directory, "relay/relay.key"),
          },
        },
      },
    });
    relay.launch();
    for (const box of boxes) {
      await telemetry.untilCount(box.device, sensors.count, LIMIT);
      telemetry.checkEquals(box.device, sensors);
    }
    for (const box of boxes) {
      await box.agent.ready("what is acknowledged makes way", () => box.segments() === 1, LIMIT);
      assert.equal((await box.agent.kill("SIGTERM", 60_000)).code, 0);
      for (const stream of box.inspect()) assert.equal(stream.records, "0", JSON.stringify(stream));
      assert.ok(box.segments() <= 1);
      assert.equal(telemetry.checkChain(box.device).length, 1, "nothing came twice");
    }
  },
  { limit: 4 * LIMIT },
);
