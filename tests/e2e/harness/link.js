import { connect, createServer } from "node:net";
import { freePort } from "./port.js";

/** Stands between an agent and its broker, and lets nothing through while it is cut. */
export class Link {
  cut = false;
  #sockets = new Set();

  static async start(site, url) {
    const link = new Link();
    const { hostname: host, port } = new URL(url);
    const server = createServer((client) => link.#pass(client, connect({ port, host })));
    const own = await freePort();
    await new Promise((resolve) => server.listen(own, "127.0.0.1", resolve));
    link.url = `mqtt://127.0.0.1:${own}`;
    site.onClose(() => {
      link.setCut(true);
      return new Promise((resolve) => server.close(resolve));
    });
    return link;
  }

  setCut(cut) {
    this.cut = cut;
    if (cut) for (const socket of this.#sockets) socket.destroy();
  }

  #pass(client, broker) {
    for (const socket of [client, broker]) {
      this.#sockets.add(socket);
      socket
        .on("error", () => {})
        .on("close", () => {
          this.#sockets.delete(socket);
          client.destroy();
          broker.destroy();
        });
    }
    if (this.cut) client.destroy();
    else client.pipe(broker).pipe(client);
  }
}
