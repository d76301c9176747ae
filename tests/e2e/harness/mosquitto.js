import { execFileSync } from "node:child_process";
import { connect } from "node:net";
import { freePort } from "./port.js";

const PATH = `${process.env.PATH}:/usr/sbin`;

/** Mosquitto on a free port, without persistence: whatever it holds is gone when it ends. */
export class Mosquitto {
  static async start(site, more = "") {
    const mosquitto = new Mosquitto(site, await freePort(), more);
    await mosquitto.start();
    return mosquitto;
  }

  constructor(site, port, more) {
    this.site = site;
    this.port = port;
    this.url = `mqtt://127.0.0.1:${port}`;
    const root = process.getuid() === 0 ? "user root\n" : "";
    this.config = site.write(
      "mosquitto.conf",
      `${root}listener ${port} 127.0.0.1\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\n${more}`,
    );
  }

  async start() {
    this.program = this.site.start("mosquitto", "mosquitto", ["-c", this.config], {
      env: { PATH },
    });
    await this.program.ready(`Mosquitto listens on ${this.port}`, () => listens(this.port));
  }

  kill() {
    return this.program.kill("SIGKILL");
  }
}

/**
 * Mosquitto with two ports: one for agents, at `url`, and one at `secure.url` for who has a certificate of the authority's and a
 * password.
 */
export class SecureMosquitto extends Mosquitto {
  /** All but started. */
  static async prepare(site, { authority, user, password }) {
    const mosquitto = new SecureMosquitto(site, await freePort());
    const port = await freePort();
    mosquitto.secure = { url: `mqtts://127.0.0.1:${port}` };
    const passwords = site.write(`passwords-${port}`, `${user}:${password}\n`);
    execFileSync("mosquitto_passwd", ["-U", passwords], { env: { PATH } });
    const server = authority.issue(`server-${port}`);
    const root = process.getuid() === 0 ? "user root\n" : "";
    mosquitto.config = site.write(
      `mosquitto-${port}.conf`,
      `${root}per_listener_settings true\npersistence false\nset_tcp_nodelay true\n` +
        `listener ${mosquitto.port} 127.0.0.1\nallow_anonymous true\n` +
        `listener ${port} 127.0.0.1\nallow_anonymous false\npassword_file ${passwords}\n` +
        `cafile ${authority.cert}\ncertfile ${server.cert}\nkeyfile ${server.key}\nrequire_certificate true\n`,
    );
    return mosquitto;
  }
}

/** Whether someone accepts connections on this port of 127.0.0.1. */
export function listens(port) {
  return new Promise((resolve) => {
    const socket = connect({ port, host: "127.0.0.1" });
    socket.once("connect", () => resolve(true)).once("error", () => resolve(false));
    socket.once("connect", () => socket.destroy());
  });
}
