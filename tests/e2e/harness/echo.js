import { join } from "node:path";
import { createInterface } from "node:readline";
import { binaries } from "./site.js";

/** Starts the echo server on the gateway's WebSocket layer (relay/examples/echo.rs), and returns its host and port. */
export async function startEcho(site) {
  const echo = site.start("echo", join(binaries, "examples/echo"), ["0"], { stdout: "pipe" });
  let address;
  createInterface({ input: echo.child.stdout }).on("line", (line) => {
    address = line;
  });
  await echo.ready("the echo server listens", () => address !== undefined);
  return address;
}
