import { connect, createServer } from "node:net";
import { freePort } from "./port.js";

/**
 * Stands between a WebSocket client and the relay and reads the frames' headers in what passes, so that a test sees
 * what is really on the wire: opcode, RSV1 (compressed, RFC 7692) and length of each.
 */
export class WireTap {
  frames = [];
  bytes = 0;

  static async start(site, port) {
    const tap = new WireTap();
    tap.port = await freePort();
    tap.url = `ws://127.0.0.1:${tap.port}/v1/live`;
    const sockets = new Set();
    const server = createServer((client) => {
      const upstream = connect({ port, host: "127.0.0.1" });
      const reader = new FrameReader((frame) => tap.frames.push(frame));
      for (const socket of [client, upstream]) {
        sockets.add(socket.on("error", () => {}).on("close", () => sockets.delete(socket)));
      }
      upstream.on("data", (bytes) => {
        tap.bytes += bytes.length;
        reader.push(bytes);
      });
      client.pipe(upstream).pipe(client);
    });
    await new Promise((resolve) => server.listen(tap.port, "127.0.0.1", resolve));
    site.onClose(() => {
      for (const socket of sockets) socket.destroy();
      return new Promise((resolve) => server.close(resolve));
    });
    return tap;
  }
}

class FrameReader {
  #bytes = Buffer.alloc(0);
  #upgraded = false;
  #skip = 0;

  constructor(onFrame) {
    this.onFrame = onFrame;
  }

  push(bytes) {
    this.#bytes = Buffer.concat([this.#bytes, bytes]);
    if (!this.#upgraded) {
      const end = this.#bytes.indexOf("\r\n\r\n");
      if (end < 0) return;
      this.#upgraded = true;
      this.#bytes = this.#bytes.subarray(end + 4);
    }
    for (;;) {
      const skipped = Math.min(this.#skip, this.#bytes.length);
      this.#skip -= skipped;
      this.#bytes = this.#bytes.subarray(skipped);
      if (this.#skip > 0 || this.#bytes.length < 2) return;
      const [first, second] = this.#bytes;
      const short = second & 0x7f;
      const header = short === 127 ? 10 : short === 126 ? 4 : 2;
      if (this.#bytes.length < header) return;
      const length =
        short === 127
          ? Number(this.#bytes.readBigUInt64BE(2))
          : short === 126
            ? this.#bytes.readUInt16BE(2)
            : short;
      this.onFrame({ opcode: first & 0x0f, compressed: (first & 0x40) !== 0, length });
      this.#skip = header + length;
    }
  }
}
