import { execFileSync } from "node:child_process";
import { copyFileSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Authority } from "./authority.js";
import { listens } from "./mosquitto.js";
import { freePort } from "./port.js";
import { repository } from "./site.js";

const folder = join(repository, "deploy/mosquitto");

/**
 * Mosquitto with deploy/mosquitto/certificates.conf as it stands, but for ports and where files lie, and with the certificates that
 * deploy/authority makes. A third listener, without rules, is the tests' own: `spy`.
 */
export class DeployedMosquitto {
  static async start(site, devices) {
    const broker = new DeployedMosquitto();
    broker.site = site;
    broker.directory = site.path("authority");
    broker.authority("init");
    broker.authority("broker", "127.0.0.1", "localhost", "mosquitto");
    broker.authority("endpoint", "127.0.0.1", "localhost");
    for (const device of devices) broker.authority("device", device);
    const of = (file) => join(broker.directory, file);
    broker.server = { cert: of("mosquitto/server.crt"), key: of("mosquitto/server.key") };
    broker.devices = Authority.at(
      site,
      "devices",
      of("private/devices-ca.crt"),
      of("private/devices-ca.key"),
    );
    broker.ca = of("relay/services-ca.crt");
    broker.ports = { devices: await freePort(), relay: await freePort(), spy: await freePort() };
    for (const file of ["devices.acl", "relay.acl"]) copyFileSync(join(folder, file), site.path(file));
    const text = readFileSync(join(folder, "certificates.conf"), "utf8")
      .replaceAll("/etc/mosquitto/headwater/", `${broker.directory}/mosquitto/`)
      .replaceAll("/etc/mosquitto/revoked/", `${broker.directory}/revoked/`)
      .replaceAll("/etc/mosquitto/", `${site.directory}/`)
      .replace(/^listener 8883$/m, `listener ${broker.ports.devices} 127.0.0.1`)
      .replace(/^listener 8884$/m, `listener ${broker.ports.relay} 127.0.0.1`);
    const root = process.getuid() === 0 ? "user root\n" : "";
    const spy = `listener ${broker.ports.spy} 127.0.0.1\nallow_anonymous true\n`;
    broker.config = site.write("mosquitto.conf", `${root}${text}\n${spy}`);
    await broker.run();
    return broker;
  }

  /** Carries a command of deploy/authority out. */
  authority(command, ...args) {
    const script = join(repository, "deploy/authority");
    return execFileSync(script, [command, this.directory, ...args], {
      encoding: "utf8",
      stdio: "pipe",
    }).trim();
  }

  async run() {
    const env = { PATH: `${process.env.PATH}:/usr/sbin` };
    this.program = this.site.start("mosquitto", "mosquitto", ["-c", this.config], { env });
    for (const port of Object.values(this.ports)) {
      await this.program.ready(`Mosquitto listens on ${port}`, () => listens(port));
    }
  }

  async restart() {
    await this.program.kill("SIGTERM");
    await this.run();
  }

  /** Files of a device, as its agent's settings name them. */
  files(name) {
    const of = (file) => join(this.directory, "devices", name, file);
    return { ca_file: of("services-ca.crt"), cert_file: of("device.crt"), key_file: of("device.key") };
  }

  /** Options for mqtt.js: the device of that name, unless `more` says otherwise. */
  device(name, more = {}) {
    const { cert_file, key_file } = this.files(name);
    return this.#secure(this.ports.devices, cert_file, key_file, { clientId: name, ...more });
  }

  relay(more = {}) {
    const [cert, key] = ["relay.crt", "relay.key"].map((file) => join(this.directory, "relay", file));
    return this.#secure(this.ports.relay, cert, key, more);
  }

  spy() {
    return { host: "127.0.0.1", port: this.ports.spy, protocolVersion: 5 };
  }

  #secure(port, cert, key, more) {
    const [ca, own, secret] = [this.ca, cert, key].map((file) => readFileSync(file));
    return {
      protocol: "mqtts",
      host: "127.0.0.1",
      port,
      ca,
      cert: own,
      key: secret,
      protocolVersion: 5,
      ...more,
    };
  }
}
