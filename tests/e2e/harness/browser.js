import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { extname, join } from "node:path";
import { chromium } from "playwright-core";
import { until } from "./until.js";

const FLAGS = [
  // Root may not use the sandbox; nothing but our own page is opened.
  ...(process.getuid() === 0 ? ["--no-sandbox"] : []),
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  // No connections of its own.
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  // A page that was put in place of another is of no network, and may reach this machine all the same.
  "--disable-features=LocalNetworkAccessChecks,LocalNetworkAccessChecksWebSockets,BlockInsecurePrivateNetworkRequests",
];

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const TYPES = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml" };

/** HEADWATER_PAGE=dashboard/dist: the page as it is there, in place of the one that was built into the relay. */
async function servePage(page, folder) {
  const ours = ({ pathname }) => pathname === "/" || existsSync(join(folder, pathname));
  await page.route(ours, (route) => {
    const { pathname } = new URL(route.request().url());
    const path = join(folder, pathname === "/" ? "index.html" : pathname);
    return route.fulfill({ path, contentType: TYPES[extname(path)] });
  });
}

/** The dashboard in headless Chromium. */
export class Dashboard {
  errors = [];

  static async open(site, url, { width = 1280, height = 800 } = {}) {
    const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: FLAGS });
    site.onClose(() => browser.close());
    const page = await browser.newPage({ viewport: { width, height } });
    const dashboard = new Dashboard(page, url);
    site.onFailure(async () => {
      await page.screenshot({ path: site.path("page.png"), fullPage: true });
      console.log(`--- the page: ${site.path("page.png")}; its errors: ${JSON.stringify(dashboard.errors)}`);
    });
    page.on("pageerror", (error) => dashboard.errors.push(String(error)));
    if (process.env.HEADWATER_PAGE) await servePage(page, process.env.HEADWATER_PAGE);
    await page.goto(url);
    return dashboard;
  }

  constructor(page, url) {
    Object.assign(this, { page, url });
  }

  /** Goes to a device's charts. */
  async device(name, minutes = 5) {
    await this.page.goto(`${this.url}#/device/${encodeURIComponent(name)}?minutes=${minutes}`);
  }

  /** "open", "connecting", "waiting" or "closed". */
  async connection() {
    const names = (await this.page.locator("button.chip").getAttribute("class")).split(" ");
    return names.find((name) => name !== "chip");
  }

  /** Waits until the page's connection is in this state. */
  async untilConnection(state, limit) {
    await until(`the page's connection is ${state}`, async () => (await this.connection()) === state, limit);
  }

  /** What the fleet's table says of a device, or undefined. */
  async row(device) {
    return this.page.evaluate((name) => {
      const row = document.querySelector(`tr[data-device="${CSS.escape(name)}"]`);
      return row
        ? {
            online: row.querySelector("[data-online]").dataset.online === "true",
            waiting: Number(row.querySelector("[data-waiting]").dataset.waiting),
            rate: Number(row.querySelector("[data-rate]").dataset.rate),
            seen: row.querySelector(".seen").textContent,
          }
        : undefined;
    }, device);
  }

  /** What the page says of its connection: section → line → value. */
  async inspector() {
    if (!(await this.page.locator("#inspector").isVisible())) await this.page.click("button.chip");
    return this.page.evaluate(() =>
      Object.fromEntries(
        [...document.querySelectorAll("#inspector section")].map((section) => [
          section.querySelector("h2").textContent,
          Object.fromEntries(
            [...section.querySelectorAll("dl > div")].map((line) => [
              line.querySelector("dt").textContent,
              line.querySelector("dd").firstChild.textContent,
            ]),
          ),
        ]),
      ),
    );
  }

  /** How bright the page's ground is: 0 black, 1 white. */
  async brightness() {
    const colour = await this.page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const [red, green, blue] = colour.match(/[\d.]+/g).map(Number);
    return (red + green + blue) / 3 / 255;
  }

  /** What the charts of the device's page hold: metric → { points, suspects, value, timeMs }. */
  async charts() {
    return this.page.evaluate(() =>
      Object.fromEntries(
        [...document.querySelectorAll("li[data-metric][data-points]")].map(({ dataset }) => [
          dataset.metric,
          {
            points: Number(dataset.points),
            suspects: Number(dataset.suspects),
            value: dataset.value,
            timeMs: Number(dataset.timeMs),
          },
        ]),
      ),
    );
  }

  /** The pixels of the first chart, to see whether it moves. */
  picture() {
    return this.page.evaluate(() => document.querySelector(".chart canvas").toDataURL());
  }

  /** Where the page is: the address's hash. */
  hash() {
    return this.page.evaluate(() => location.hash);
  }

  /**
   * The longest task on the page's main thread during `act`, milliseconds of its own CPU time: what else the machine does at the time
   * stretches tasks, and says nothing about the page.
   */
  async longestTask(act) {
    const browser = this.page.context().browser();
    await browser.startTracing(this.page, {
      categories: ["toplevel", "disabled-by-default-devtools.timeline"],
    });
    await act();
    const { traceEvents } = JSON.parse((await browser.stopTracing()).toString());
    const main = new Set(
      traceEvents
        .filter(({ name, args }) => name === "thread_name" && args.name === "CrRendererMain")
        .map(({ pid, tid }) => `${pid}/${tid}`),
    );
    const tasks = traceEvents.filter(
      ({ name, ph, pid, tid, tdur }) =>
        name.endsWith("RunTask") && ph === "X" && tdur > 0 && main.has(`${pid}/${tid}`),
    );
    assert.ok(tasks.length > 20, `the trace has ${tasks.length} tasks`);
    return Math.max(...tasks.map(({ tdur }) => tdur)) / 1000;
  }

  /** What axe-core has to say against the page as it stands, by WCAG 2.2 A and AA. */
  async barriers() {
    // By the debugger, since the page's policy allows no script but its own.
    await this.page.evaluate(AXE);
    const found = await this.page.evaluate(async () => {
      const { violations } = await globalThis.axe.run(document, {
        runOnly: ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa", "best-practice"],
      });
      return violations.flatMap(({ id, nodes }) =>
        nodes.map(({ html, failureSummary }) => `${id}: ${html.slice(0, 160)} ${failureSummary}`),
      );
    });
    return found;
  }

  /** No script of the page has failed. */
  checkErrors() {
    assert.deepEqual(this.errors, []);
  }
}
