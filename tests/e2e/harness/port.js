import { mkdirSync, symlinkSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

const [FIRST, COUNT] = [20_000, 12_000];
// Processes at the same time begin far from each other.
let next = process.pid * 64;

/**
 * A port of 127.0.0.1 that nobody listens on. Below the kernel's ephemeral range, so that no outgoing connection takes
 * it before its owner listens; claimed as long as this process lives, so that no other test's server gets it either,
 * nor Kafka (scripts/kafka says what a claim is, and clears away those that have ended).
 */
export async function freePort() {
  const claims = join(tmpdir(), `headwater-ports-${process.geteuid()}`);
  mkdirSync(claims, { recursive: true });
  for (let attempt = 0; attempt < COUNT; attempt++) {
    const port = FIRST + (next++ % COUNT);
    if (claim(join(claims, String(port))) && (await isFree(port))) return port;
  }
  throw new Error(`no free port between 20000 and 32000; claims are in ${claims}`);
}

function claim(path) {
  try {
    symlinkSync(`/proc/${process.pid}`, path);
    return true;
  } catch (error) {
    if (error.code === "EEXIST") return false;
    throw error;
  }
}

function isFree(port) {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(false));
    server.listen({ port, host: "127.0.0.1", exclusive: true }, () => server.close(() => resolve(true)));
  });
}
