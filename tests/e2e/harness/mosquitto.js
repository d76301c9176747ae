import { connect } from "node:net";
import { freePort } from "./port.js";

/** Mosquitto on a free port, without persistence: whatever it holds is gone when it ends. */
export class Mosquitto {
  static async start(site) {
    const mosquitto = new Mosquitto(site, await freePort());
    await mosquitto.start();
    return mosquitto;
  }

  constructor(site, port) {
    this.site = site;
    this.port = port;
    this.url = `mqtt://127.0.0.1:${port}`;
    const root = process.getuid() === 0 ? "user root\n" : "";
    this.config = site.write(
      "mosquitto.conf",
      `${root}listener ${port} 127.0.0.1\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\n`,
    );
  }

  async start() {
    this.program = this.site.start("mosquitto", "mosquitto", ["-c", this.config], {
      env: { PATH: `${process.env.PATH}:/usr/sbin` },
    });
    await this.program.ready(`Mosquitto listens on ${this.port}`, () => listens(this.port));
  }

  kill() {
    return this.program.kill("SIGKILL");
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
