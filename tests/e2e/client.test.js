/** @headwater/client as its users get it: packed, installed in a project of its own, compiled strictly, run in Node and in Chromium. */

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { cpSync, createReadStream, mkdirSync, readdirSync, readFileSync, symlinkSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";
import { promisify } from "node:util";
import { WebSocket } from "ws";
import { startAgent } from "./harness/agent.js";
import { Dashboard } from "./harness/browser.js";
import { Kafka } from "./harness/kafka.js";
import { Mosquitto } from "./harness/mosquitto.js";
import { blocks } from "./harness/pages.js";
import { freePort } from "./harness/port.js";
import { Relay } from "./harness/relay.js";
import { repository, scenario } from "./harness/site.js";
import { token } from "./harness/token.js";
import { Trace } from "./harness/trace.js";
import { until } from "./harness/until.js";

const run = promisify(execFile);
const sensors = Trace.read(join(repository, "bench/data/sensors-1hz.csv"));
const modules = join(repository, "node_modules");
const home = join(repository, "clients/typescript");

async function path(site, settings) {
  const [kafka, mosquitto] = await Promise.all([Kafka.start(site), Mosquitto.start(site)]);
  const relay = await Relay.start(site, { kafka, mosquitto, settings });
  return { kafka, mosquitto, relay };
}

/** The bits of a double, in hexadecimal. */
function bits(value) {
  const bytes = Buffer.alloc(8);
  bytes.writeDoubleBE(value);
  return bytes.toString("hex");
}

/** A new project in which the packed client is installed, and nothing else of ours can be found. */
async function project(site) {
  const folder = site.path("consumer");
  cpSync(join(repository, "tests/e2e/consumer"), folder, { recursive: true });
  site.write("consumer/readme.ts", blocks("README.md").find(({ language }) => language === "ts").body);
  const { stdout } = await run("npm", ["pack", "--json", "--silent", "--pack-destination", folder], {
    cwd: home,
  });
  const [packed] = Object.values(JSON.parse(stdout));
  const settings = { name: "consumer", version: "1.0.0", private: true, type: "module" };
  site.write("consumer/package.json", JSON.stringify(settings));
  await run("npm", ["install", "--offline", "--no-audit", "--no-fund", `./${packed.filename}`], {
    cwd: folder,
  });
  // Two that any project has; from here, so that no registry is asked.
  mkdirSync(join(folder, "node_modules/@types"), { recursive: true });
  for (const name of ["ws", "@types/ws", "@types/node", "undici-types"]) {
    symlinkSync(join(modules, name), join(folder, "node_modules", name));
  }
  return { folder, packed };
}

scenario("what is packed: its own files, no dependency, and what the exports map names", async (site) => {
  const { folder, packed } = await project(site);
  const paths = packed.files.map((file) => file.path).sort();
  const others = paths.filter((path) => !/^dist\/[a-z]+\.(js|d\.ts)$/.test(path));
  assert.deepEqual(others, ["LICENSE-APACHE", "LICENSE-MIT", "README.md", "package.json"]);
  const sources = readdirSync(join(home, "src")).map((name) => name.slice(0, -".ts".length));
  assert.deepEqual(
    paths.filter((path) => path.startsWith("dist/")),
    sources.flatMap((name) => [`dist/${name}.d.ts`, `dist/${name}.js`]).sort(),
  );
  const manifest = JSON.parse(
    readFileSync(join(folder, "node_modules/@headwater/client/package.json"), "utf8"),
  );
  assert.equal(manifest.dependencies, undefined);
  assert.equal(manifest.type, "module");
  const [entry] = Object.values(manifest.exports);
  for (const path of Object.values(entry)) assert.ok(paths.includes(path.slice(2)), path);
  // A module cannot be reached past the map.
  const past = run(process.execPath, ["-e", 'import("@headwater/client/dist/session.js")'], { cwd: folder });
  await assert.rejects(past, /ERR_PACKAGE_PATH_NOT_EXPORTED/);
});

for (const socket of ["ws", "own"]) {
  const whose = socket === "ws" ? "the ws package's" : "Node's own";
  scenario(
    `a strict TypeScript project in Node gets every reading, in all modes, on ${whose} WebSocket`,
    async (site) => {
      const { mosquitto, relay } = await path(site);
      const { folder } = await project(site);
      await run(process.execPath, [join(modules, "typescript/bin/tsc"), "-p", "."], { cwd: folder });
      const trace = sensors.slice(site, "trace.csv", 0, 600);
      startAgent(site, { device: "node-1", mosquitto, trace });
      const flags = socket === "own" && !globalThis.WebSocket ? ["--experimental-websocket"] : [];
      const args = [...flags, "program.js", relay.live, "node-1", String(trace.count)];
      const options = { cwd: folder, env: { SOCKET: socket }, stdout: "pipe" };
      const program = site.start("consumer", process.execPath, args, options);
      let text = "";
      program.child.stdout.on("data", (bytes) => {
        text += bytes;
      });
      await until("the program has ended", () => program.exited, 90_000);
      assert.deepEqual(await program.exit, { code: 0, signal: null });
      const told = JSON.parse(text);
      assert.deepEqual(told.all, trace.readings);
      const value = (hex) => Buffer.from(hex, "hex").readDoubleBE();
      for (const [metric, readings] of Object.entries(trace.readings)) {
        const values = readings.map(([, hex]) => value(hex));
        assert.deepEqual(told.newest[metric], readings.at(-1), metric);
        assert.deepEqual(
          told.series[metric],
          { count: values.length, min: Math.min(...values), max: Math.max(...values) },
          metric,
        );
      }
      assert.equal(told.lostReadings, 0);
      assert.equal(told.stats.unacked.frames <= told.stats.window.frames, true);
    },
  );
}

scenario(
  "of two relays the other takes over when one is told to end: every reading once, in all and in series",
  async (site) => {
    const { kafka, mosquitto, relay } = await path(site);
    const other = await Relay.start(site, { kafka, mosquitto });
    const { folder } = await project(site);
    const { connect } = await import(join(folder, "node_modules/@headwater/client/dist/index.js"));
    const connection = connect({ url: [relay.live, other.live], WebSocket, window: { frames: 8 } });
    site.onClose(() => connection.close());
    const goodbyes = [];
    connection.on("goodbye", ({ reason }) => goodbyes.push(reason));
    const all = {};
    const counts = {};
    const start = { timeUs: 0 };
    connection.subscribe({ devices: ["dev"], start }, (event) => {
      for (const column of event.type === "batch" ? event.batch.columns : []) {
        all[column.metric] ??= [];
        all[column.metric].push(
          ...Array.from(column.values, (value, i) => [String(column.times[i]), bits(value)]),
        );
      }
    });
    connection.subscribe({ devices: ["dev"], mode: "series", intervalMs: 2000, start }, (event) => {
      for (const { metric, counts: more } of event.type === "series" ? event.columns : []) {
        counts[metric] = (counts[metric] ?? 0) + more.reduce((sum, count) => sum + count, 0);
      }
    });
    await until("the first relay answers", () => connection.status.state === "open");
    const trace = sensors.slice(site, "trace.csv", 0, 1500);
    startAgent(site, { device: "dev", mosquitto, trace, speed: 100, batch: { readings: 80 } });
    const seen = () => Object.values(all).reduce((sum, column) => sum + column.length, 0);
    for (const [from, to] of [
      [relay, other],
      [other, relay],
    ]) {
      const before = seen();
      await until("readings come", () => seen() > before + trace.count / 8);
      await from.program.kill("SIGTERM");
      await until(
        "the other relay answers",
        () => connection.status.url === to.live && connection.status.state === "open",
      );
      if (from === relay) await relay.start();
    }
    assert.deepEqual(goodbyes.length, 2, goodbyes.join("; "));
    await until("all readings are here", () => seen() >= trace.count, 60_000);
    const total = () => Object.values(counts).reduce((sum, count) => sum + count, 0);
    await until("the series have counted all", () => total() >= trace.count, 60_000);
    assert.deepEqual(all, trace.readings);
    assert.deepEqual(
      counts,
      Object.fromEntries(Object.entries(trace.readings).map(([metric, { length }]) => [metric, length])),
    );
  },
);

/** The README's dashboard as it stands there, but for the relay's address, on a server that knows it and hands out tokens. */
async function servePage(site, relay, folder, jwt) {
  const [, html] = /```html\n(.*?)```/s.exec(readFileSync(join(home, "README.md"), "utf8"));
  const address = "wss://relay.example/v1/live";
  assert.ok(html.includes(address));
  const map = { imports: { "@headwater/client": "/client/index.js" } };
  const page = `<!doctype html><script type="importmap">${JSON.stringify(map)}</script>${html.replace(address, relay.live)}`;
  const server = createServer((request, response) => {
    const { pathname } = new URL(request.url, "http://page");
    const name = /^\/client\/([a-z]+\.js)$/.exec(pathname)?.[1];
    if (name) {
      response.setHeader("content-type", "text/javascript");
      createReadStream(join(folder, "node_modules/@headwater/client/dist", name)).pipe(response);
    } else if (pathname === "/token") {
      response.end(jwt());
    } else if (pathname === "/") {
      response.setHeader("content-type", "text/html; charset=utf-8").end(page);
    } else {
      response.writeHead(pathname === "/favicon.ico" ? 204 : 404).end();
    }
  });
  const port = site.pagePort;
  await new Promise((resolve) => server.listen(port, "127.0.0.1", resolve));
  site.onClose(() => server.close());
  return `http://127.0.0.1:${port}/`;
}

scenario(
  "the README's dashboard in Chromium: snapshot, live values, a relay killed, tokens replaced",
  async (site) => {
    const secret = "a secret of enough bytes for HS256";
    site.pagePort = await freePort();
    const { mosquitto, relay } = await path(site, {
      gateway: {
        allowed_origins: [`http://127.0.0.1:${site.pagePort}`],
        keys: [{ algorithm: "HS256", file: site.write("key", secret) }],
      },
    });
    const { folder } = await project(site);
    let tokens = 0;
    const url = await servePage(site, relay, folder, () => {
      tokens += 1;
      const exp = Math.floor(Date.now() / 1000) + 6;
      return token(secret, { sub: "readme", exp, hw: { read: ["*"] } });
    });
    const first = sensors.slice(site, "first.csv", 0, 100);
    startAgent(site, { device: "plant-1", mosquitto, trace: first });
    startAgent(site, { device: "office", mosquitto, trace: first });
    const { page, ...dashboard } = await Dashboard.open(site, url);
    const metrics = Object.keys(first.readings).filter((metric) => metric.endsWith("_temp_c"));
    assert.ok(metrics.length >= 2 && metrics.length < Object.keys(first.readings).length);
    /** The list holds exactly the newest value of each metric. */
    const shows = async (device, trace) => {
      const texts = await page.locator("#values li").allTextContents();
      const mine = texts.filter((text) => text.startsWith(`${device} `));
      const expected = metrics.map((metric) => {
        const value = Buffer.from(trace.readings[metric].at(-1)[1], "hex").readDoubleBE();
        return `${device} ${metric}: ${value} `;
      });
      if (
        mine.length === metrics.length &&
        expected.every((start) => mine.some((text) => text.startsWith(start)))
      ) {
        return true;
      }
      throw new Error(texts.join(" | "));
    };
    await until("the first values are shown", () => shows("plant-1", first));
    await relay.program.kill("SIGKILL");
    await relay.start();
    const second = sensors.slice(site, "second.csv", 100, 250);
    startAgent(site, { device: "plant-2", mosquitto, trace: second });
    await until("the values after the kill are shown", () => shows("plant-2", second));
    await shows("plant-1", first);
    // A connection's and one in band, at least.
    const before = tokens;
    await until("a token was replaced", () => tokens >= before + 2);
    const third = sensors.slice(site, "third.csv", 300, 400);
    startAgent(site, { device: "plant-3", mosquitto, trace: third });
    await until("values go on behind the first token's end", () => shows("plant-3", third));
    assert.equal(await page.locator("#values li").filter({ hasText: "office" }).count(), 0);
    assert.deepEqual(dashboard.errors, []);
  },
);
