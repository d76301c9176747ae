import { connect, createServer } from "node:net";
import { Transform } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { freePort } from "./port.js";

/** Stands between a page and the relay: what comes down passes at so many bytes a second, in the pieces a bad radio link would make of it. */
export class SlowLink {
  static async start(site, port) {
    const link = new SlowLink();
    link.port = await freePort();
    link.page = `http://127.0.0.1:${link.port}/`;
    const sockets = new Set();
    const server = createServer((client) => {
      const upstream = connect({ port, host: "127.0.0.1" });
      for (const socket of [client, upstream]) {
        sockets.add(socket.on("error", () => socket.destroy()).on("close", () => sockets.delete(socket)));
      }
      client.on("close", () => upstream.destroy());
      upstream.on("close", () => client.destroy());
      client.pipe(upstream).pipe(link.#throttle()).pipe(client);
    });
    await new Promise((resolve) => server.listen(link.port, "127.0.0.1", resolve));
    site.onClose(() => {
      for (const socket of sockets) socket.destroy();
      return new Promise((resolve) => server.close(resolve));
    });
    return link;
  }

  /** Bytes a second. */
  rate = Number.POSITIVE_INFINITY;
  passed = 0;

  #throttle() {
    const link = this;
    return new Transform({
      highWaterMark: 2048,
      async transform(bytes, _, done) {
        for (let at = 0; at < bytes.length; at += 1024) {
          const piece = bytes.subarray(at, at + 1024);
          link.passed += piece.length;
          this.push(piece);
          if (link.rate < Number.POSITIVE_INFINITY) await sleep((piece.length / link.rate) * 1000);
        }
        done();
      },
    });
  }
}
