/**
 * permessage-deflate as browsers do it: text and binary messages of many sizes, through an echo server on the gateway's WebSocket layer, come back as they
 * were; in Firefox and in Chromium, each driven by a page alone.
 */

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { createServer } from "node:http";
import { startEcho } from "./harness/echo.js";
import { scenario } from "./harness/site.js";
import { until } from "./harness/until.js";

/** Runs in the page; what it returns is posted back. */
async function exchange(url) {
  const out = { messages: 0, failures: [] };
  const socket = new WebSocket(url);
  socket.binaryType = "arraybuffer";
  await new Promise((resolve, reject) => {
    socket.onopen = resolve;
    socket.onerror = () => reject(new Error("no connection"));
  });
  out.extensions = socket.extensions;
  const ask = (message) =>
    new Promise((resolve, reject) => {
      socket.onmessage = (event) => resolve(event.data);
      socket.onclose = (event) => reject(new Error(`closed with ${event.code}`));
      socket.send(message);
    });
  const check = async (what, bytes) => {
    const back = new Uint8Array(await ask(bytes));
    out.messages += 1;
    if (back.length !== bytes.length || back.some((byte, i) => byte !== bytes[i])) out.failures.push(what);
  };
  for (const size of [0, 1, 63, 64, 125, 126, 1000, 65535, 65536, 300000, 2000000]) {
    const text = "häder ".repeat(size).slice(0, size);
    out.messages += 1;
    if ((await ask(text)) !== text) out.failures.push(`text of ${size}`);
    await check(
      `binary of ${size}`,
      new Uint8Array(size).map((_, i) => (i * i + (i % 7)) & 3),
    );
  }
  for (let round = 0; round < 20; round++)
    await check(`noise ${round}`, crypto.getRandomValues(new Uint8Array(65536)));
  return new Promise((resolve) => {
    socket.onclose = (event) => resolve({ ...out, code: event.code, wasClean: event.wasClean });
    socket.close(1000);
  });
}

const BROWSERS = {
  "firefox-esr": (profile, url) => ["--headless", "--no-remote", "--profile", profile, url],
  chromium: (profile, url) => [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    `--user-data-dir=${profile}`,
    url,
  ],
};

for (const [browser, args] of Object.entries(BROWSERS)) {
  scenario(`${browser}: what goes out compressed comes back as it was`, async (site) => {
    const address = await startEcho(site);
    let result;
    const server = createServer((request, response) => {
      if (request.method === "POST") {
        let body = "";
        request.on("data", (part) => {
          body += part;
        });
        request.on("end", () => {
          result = JSON.parse(body);
          response.end();
        });
        return;
      }
      response.setHeader("content-type", "text/html; charset=utf-8");
      const post = `(out) => fetch("/", { method: "POST", body: JSON.stringify(out) })`;
      response.end(
        `<script>(${exchange})("ws://${address}/").catch((error) => ({ error: String(error) })).then(${post})</script>`,
      );
    });
    await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
    site.onClose(() => server.closeAllConnections());
    site.onClose(() => server.close());
    const profile = site.path("profile");
    mkdirSync(profile);
    const url = `http://127.0.0.1:${server.address().port}/`;
    site.start(browser, browser, args(profile, url), { env: { HOME: site.directory } });
    await until("the page has told its result", () => result !== undefined, 90_000);
    const { extensions, ...rest } = result;
    assert.deepEqual(rest, { messages: 42, failures: [], code: 1000, wasClean: true });
    // Firefox tells the name alone, Chromium the whole answer.
    assert.match(extensions, /^permessage-deflate/);
  });
}
