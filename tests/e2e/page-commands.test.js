/** Commands from the page to a real agent and back, on the whole path: what came of each is told, and what a token forbids stays undone. */

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { Dashboard } from "./harness/browser.js";
import { startExecAgent } from "./harness/execagent.js";
import { Kafka } from "./harness/kafka.js";
import { Mosquitto } from "./harness/mosquitto.js";
import { Relay } from "./harness/relay.js";
import { scenario } from "./harness/site.js";
import { token } from "./harness/token.js";
import { until } from "./harness/until.js";

scenario(
  "a page has an agent answer, change an interval and start anew; who may not is told so",
  async (site) => {
    const secret = randomBytes(32).toString("hex");
    const jwt = (command) =>
      token(secret, { sub: "anna", exp: Math.floor(Date.now() / 1000) + 600, hw: { read: ["*"], command } });
    const [kafka, mosquitto] = await Promise.all([Kafka.start(site), Mosquitto.start(site)]);
    const relay = await Relay.start(site, {
      kafka,
      mosquitto,
      settings: { gateway: { keys: [{ algorithm: "HS256", file: site.write("key", secret) }] } },
    });
    const agent = startExecAgent(site, mosquitto, "boiler");
    const open = async (command) => {
      const dashboard = await Dashboard.open(site, `${relay.page}?token=${jwt(command)}#/device/boiler`);
      await dashboard.page.waitForSelector("span.state.on");
      return dashboard;
    };
    const dashboard = await open(["*"]);
    const { page } = dashboard;
    const ask = async (target, title, fill = async () => {}) => {
      await target.click(`.asks button:text-is("${title}")`);
      await fill(target);
      await target.click("dialog button[type=submit]");
    };
    const became = async (target, name, outcome, limit) => {
      const last = target.locator(`.replies li[data-command=${name}]`).first();
      await until(
        `${name} is ${outcome}`,
        async () => {
          const now = await last.getAttribute("data-outcome");
          if (now === outcome) return true;
          throw new Error(now);
        },
        limit,
      );
      return last.textContent();
    };
    await ask(page, "Ping");
    await became(page, "ping", "ok");
    await ask(page, "Status");
    assert.match(await became(page, "status", "ok"), /"device": "boiler"/);
    await ask(page, "Flush");
    await became(page, "flush", "ok");
    const set = (value) => (target) => target.fill("dialog label:has-text('New value') input", value);
    await ask(page, "Set an interval", set("3s"));
    await became(page, "set", "ok");
    await ask(page, "Set an interval", set("soon"));
    await became(page, "set", "refused");
    await ask(page, "Restart");
    await became(page, "restart", "ok");
    await ask(page, "Status");
    assert.match(await became(page, "status", "ok"), /batch\.age/, "what was set outlives the restart");

    // Who may read only has nothing to press; who may command another device is refused.
    const reader = await open([]);
    assert.equal(await reader.page.locator(".asks").count(), 0);
    const elsewhere = await open(["pump-*"]);
    await ask(elsewhere.page, "Restart");
    await became(elsewhere.page, "restart", "forbidden");

    // An agent that is away: it says so before, and after.
    await agent.kill("SIGKILL");
    await page.waitForSelector("span.state.off");
    await ask(page, "Ping", async (target) => {
      await target.waitForSelector("dialog .warn:has-text('boiler is off line')");
      await target.selectOption("dialog select", "10");
    });
    await became(page, "ping", "expired");
    dashboard.checkErrors();
  },
  { limit: 180_000 },
);
