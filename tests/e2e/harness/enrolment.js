/** What enrolment is tried with: an endpoint's settings, the operator's commands, a machine with a card in it. */

import assert from "node:assert/strict";
import { execFile, execFileSync } from "node:child_process";
import { X509Certificate } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { binaries } from "./site.js";

const AGENT = join(binaries, "headwater-agent");

/** The section [enroll] with what deploy/authority has made. */
export function endpoint(site, broker, port, more = {}) {
  const of = (file) => join(broker.directory, file);
  return {
    listen: `127.0.0.1:${port}`,
    state: site.path("register"),
    cert_file: of("enroll/endpoint.crt"),
    key_file: of("enroll/endpoint.key"),
    ca_cert_file: of("enroll/devices-ca.crt"),
    ca_key_file: of("enroll/devices-ca.key"),
    trust_file: of("enroll/services-ca.crt"),
    crl_file: of("revoked/devices.crl"),
    url: `https://127.0.0.1:${port}`,
    broker: `mqtts://127.0.0.1:${broker.ports.devices}`,
    ...more,
  };
}

/** `headwater-relay fleet`. Rejects with what it says. */
export function fleet(relay, ...args) {
  const options = { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] };
  const all = ["fleet", ...args, "--config", relay.config];
  return execFileSync(join(binaries, "headwater-relay"), all, options).trim();
}

/** A machine with a card in it: a root of its own, in place of /. */
export class Machine {
  constructor(site, name, card) {
    Object.assign(this, { site, name, root: site.path(`root-${name}`) });
    for (const folder of ["boot", "etc", "state"]) mkdirSync(join(this.root, folder), { recursive: true });
    const text = readFileSync(card, "utf8");
    assert.ok(text.includes("/var/lib/headwater-agent/tls/device.key"), text);
    this.lay(text.replaceAll("/var/lib/headwater-agent", this.path("state")));
    this.config = this.path("etc/agent.toml");
    this.env = {
      STATE_DIRECTORY: this.path("state"),
      HEADWATER_AGENT_BATCH__AGE: "200ms",
      HEADWATER_AGENT_HEALTH__INTERVAL: "0s",
      HEADWATER_AGENT_UPLINK__BACKOFF__MIN: "50ms",
      HEADWATER_AGENT_UPLINK__BACKOFF__MAX: "500ms",
      HEADWATER_AGENT_UPLINK__TLS__LOOK_EVERY: "1s",
    };
  }

  path(name) {
    return join(this.root, name);
  }

  read(name) {
    return existsSync(this.path(name)) ? readFileSync(this.path(name), "utf8") : undefined;
  }

  lay(text) {
    writeFileSync(this.path("boot/headwater.toml"), text);
  }

  firstBoot(wait = 30) {
    const args = ["first-boot", "--boot", this.path("boot"), "--config", this.config, "--wait", String(wait)];
    return this.site.start(`first-boot-${this.name}`, AGENT, args, { env: this.env });
  }

  async boot(wait) {
    return (await this.firstBoot(wait).exit).code;
  }

  run() {
    const args = ["run", "--config", this.config];
    this.program = this.site.start(`agent-${this.name}`, AGENT, args, { env: this.env });
    return this.program;
  }

  /** `headwater-agent enroll`: its exit code and what it says. */
  enroll(...args) {
    const options = { encoding: "utf8", env: { ...process.env, ...this.env } };
    return new Promise((resolve) => {
      execFile(AGENT, ["enroll", "--config", this.config, ...args], options, (error, stdout, stderr) =>
        resolve({ code: error?.code ?? 0, said: stdout + stderr }),
      );
    });
  }

  certificate() {
    const text = this.read("state/tls/device.crt");
    return text && new X509Certificate(text);
  }

  serial() {
    return this.certificate()?.serialNumber;
  }
}
