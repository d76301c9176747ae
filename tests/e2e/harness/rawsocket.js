import { randomBytes } from "node:crypto";
import { connect } from "node:net";
import { until } from "./until.js";

/** A WebSocket whose client does not keep to the rules: the handshake is right, what follows are bytes as given. */
export class RawSocket {
  #received = Buffer.alloc(0);

  static async open(site, port, { extensions } = {}) {
    const raw = new RawSocket(connect({ port, host: "127.0.0.1" }));
    site.onClose(() => raw.socket.destroy());
    const lines = [
      "GET /v1/live HTTP/1.1",
      `Host: 127.0.0.1:${port}`,
      "Connection: Upgrade",
      "Upgrade: websocket",
      "Sec-WebSocket-Version: 13",
      `Sec-WebSocket-Key: ${randomBytes(16).toString("base64")}`,
      "Sec-WebSocket-Protocol: headwater.v1",
      ...(extensions ? [`Sec-WebSocket-Extensions: ${extensions}`] : []),
    ];
    raw.socket.write(`${lines.join("\r\n")}\r\n\r\n`);
    await until("the WebSocket is open", () => raw.#received.includes("\r\n\r\n"));
    const end = raw.#received.indexOf("\r\n\r\n") + 4;
    raw.response = raw.#received.subarray(0, end).toString();
    raw.#received = raw.#received.subarray(end);
    return raw;
  }

  constructor(socket) {
    this.socket = socket;
    socket.on("error", () => {});
    socket.on("close", () => {
      this.ended = true;
    });
    socket.on("data", (bytes) => {
      this.#received = Buffer.concat([this.#received, bytes]);
    });
  }

  /** One frame; `first` is its first byte (FIN, RSV1–3, opcode). */
  frame(first, payload, { masked = true } = {}) {
    const length =
      payload.length < 126
        ? Buffer.from([payload.length])
        : Buffer.from([126, payload.length >> 8, payload.length & 0xff]);
    const mask = randomBytes(4);
    if (masked) length[0] |= 0x80;
    const body = masked ? payload.map((byte, index) => byte ^ mask[index % 4]) : payload;
    this.socket.write(Buffer.concat([Buffer.from([first]), length, masked ? mask : Buffer.alloc(0), body]));
  }

  /** Waits for the server's Close frame and returns its code. */
  async closeCode() {
    await until("the relay closes", () => this.#close() !== undefined || this.ended);
    return this.#close();
  }

  #close() {
    for (let at = 0; at + 4 <= this.#received.length; ) {
      const short = this.#received[at + 1] & 0x7f;
      const header = short === 126 ? 4 : short === 127 ? 10 : 2;
      const length = short === 126 ? this.#received.readUInt16BE(at + 2) : short;
      if ((this.#received[at] & 0x0f) === 8)
        return length >= 2 ? this.#received.readUInt16BE(at + header) : 1005;
      at += header + length;
    }
    return undefined;
  }
}
