import { createServer } from "node:net";

const [FIRST, COUNT] = [20_000, 12_000];
// Processes at the same time begin far from each other.
let next = process.pid * 64;

/**
 * A port of 127.0.0.1 that nobody listens on. Below the kernel's ephemeral range, so that no outgoing connection takes
 * it before its owner listens; this process never gets it again.
 */
export async function freePort() {
  for (let attempt = 0; attempt < COUNT; attempt++) {
    const port = FIRST + (next++ % COUNT);
    if (await isFree(port)) return port;
  }
  throw new Error("no free port between 20000 and 32000");
}

function isFree(port) {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(false));
    server.listen({ port, host: "127.0.0.1", exclusive: true }, () => server.close(() => resolve(true)));
  });
}
