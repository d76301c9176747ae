import { createServer } from "node:net";

let last = 0;

/**
 * A port of 127.0.0.1 that nobody listens on. Below the kernel's ephemeral range, so that no outgoing connection takes
 * it before its owner listens; not the same twice in a row of calls.
 */
export async function freePort() {
  for (let attempt = 0; attempt < 100; attempt++) {
    const port = 20_000 + Math.floor(Math.random() * 12_000);
    if (port !== last && (await isFree(port))) {
      last = port;
      return port;
    }
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
