#!/usr/bin/env node
/**
 * From sample to browser in `headwater-relay demo`: readings/s, p50 and p99, CPU and memory, at several numbers of agents.
 *
 *   cargo build --release -p headwater-relay && npm ci && node bench/demo.mjs [--agents 1,10,100] [--seconds 20]
 *
 * The client library runs in headless Chromium on the demo's own page and notes for each reading the time from its stamp
 * (the schedule's tick) to the handler. Agents of the demo close a batch 250 ms after its first reading, which is in it; the
 * second pair of columns counts from the batch's arrival at the bridge. One clock: all is on one machine.
 */

import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { chromium } from "playwright-core";
import { build } from "vite";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const { values: options } = parseArgs({
  options: {
    agents: { type: "string", default: "1,10,100" },
    seconds: { type: "string", default: "20" },
    binary: { type: "string", default: join(root, "target/release/headwater-relay") },
  },
});
const seconds = Number(options.seconds);

/** The client as one script that defines `headwater`. */
async function bundle() {
  const output = await build({
    root,
    configFile: false,
    logLevel: "error",
    build: {
      write: false,
      lib: { entry: join(root, "clients/typescript/src/index.ts"), name: "headwater", formats: ["iife"] },
    },
  });
  return [output].flat()[0].output[0].code;
}

function freePort() {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

/** CPU seconds used, and resident memory in MiB. */
function usage(pid) {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1].split(" ");
  const resident = /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"));
  return { cpu: (Number(fields[11]) + Number(fields[12])) / 100, mib: Number(resident[1]) / 1024 };
}

async function answers(url, program) {
  for (let tries = 0; tries < 200; tries += 1) {
    if (program.exitCode !== null) throw new Error(`the demo ended with ${program.exitCode}`);
    if ((await fetch(url).catch(() => null))?.ok) return;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error(`${url} does not answer`);
}

/** Runs in the page: subscribes to everything for a while, and notes times. */
async function watch([url, seconds]) {
  const connection = globalThis.headwater.connect({ url });
  const fromSample = [];
  const fromBridge = [];
  let frames = 0;
  connection.subscribe({ mode: "all", start: "now" }, (event) => {
    if (event.type !== "batch") return;
    const now = (performance.timeOrigin + performance.now()) * 1000;
    frames += 1;
    fromBridge.push(now - event.arrivalUs);
    for (const column of event.batch.columns) for (const time of column.times) fromSample.push(now - time);
  });
  // The first moments belong to connecting.
  await new Promise((resolve) => setTimeout(resolve, 3000));
  for (const list of [fromSample, fromBridge]) list.length = 0;
  frames = 0;
  const began = performance.now();
  await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
  const lasted = (performance.now() - began) / 1000;
  connection.close();
  const quantiles = (list) => {
    list.sort((a, b) => a - b);
    return [0.5, 0.99].map((q) => list[Math.min(list.length - 1, Math.floor(q * list.length))] / 1000);
  };
  return {
    readings: fromSample.length / lasted,
    frames: frames / lasted,
    sample: quantiles(fromSample),
    bridge: quantiles(fromBridge),
  };
}

const script = await bundle();
const home = mkdtempSync(join(tmpdir(), "headwater-bench-"));
const browser = await chromium.launch({
  executablePath: "/usr/bin/chromium",
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-sync",
  ],
});
console.log(
  "agents  readings/s  frames/s  sample→browser p50 / p99   bridge→browser p50 / p99   relay CPU  relay RSS",
);
try {
  for (const agents of options.agents.split(",")) {
    const port = await freePort();
    const args = ["demo", "--agents", agents, "--port", String(port), "--for", `${seconds + 60}s`];
    const program = spawn(options.binary, args, { cwd: home, stdio: ["ignore", "ignore", "inherit"] });
    try {
      await answers(`http://127.0.0.1:${port}/`, program);
      const context = await browser.newContext({ bypassCSP: true });
      const page = await context.newPage();
      await page.goto(`http://127.0.0.1:${port}/favicon.ico`);
      await page.addScriptTag({ content: script });
      const before = usage(program.pid);
      const began = Date.now();
      const seen = await page.evaluate(watch, [`ws://127.0.0.1:${port}/v1/live`, seconds]);
      const after = usage(program.pid);
      const cpu = ((after.cpu - before.cpu) / (Date.now() - began)) * 100_000;
      await context.close();
      const ms = ([p50, p99]) => `${p50.toFixed(1).padStart(8)} / ${p99.toFixed(1).padStart(8)} ms`;
      console.log(
        agents.padStart(6),
        seen.readings.toFixed(0).padStart(11),
        seen.frames.toFixed(1).padStart(9),
        "    ",
        ms(seen.sample),
        "    ",
        ms(seen.bridge),
        `${cpu.toFixed(1).padStart(8)} %`,
        `${after.mib.toFixed(1).padStart(7)} MiB`,
      );
    } finally {
      program.kill("SIGINT");
      await new Promise((resolve) => (program.exitCode === null ? program.once("exit", resolve) : resolve()));
    }
  }
} finally {
  await browser.close();
  rmSync(home, { recursive: true, force: true });
}
