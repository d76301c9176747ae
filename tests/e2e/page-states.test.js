/** What the page says when something is the matter, commands and their ends, and whether all of it can be used by everyone. */

import assert from "node:assert/strict";
import { Dashboard } from "./harness/browser.js";
import { scenario } from "./harness/site.js";
import { Stage } from "./harness/stage.js";
import { until } from "./harness/until.js";

async function open(site, hash, { devices = 30, prepare = () => {}, ...view } = {}) {
  const stage = await Stage.start(site);
  stage.populate(devices);
  prepare(stage);
  const dashboard = await Dashboard.open(site, `${stage.page}${hash}`, view);
  return { stage, dashboard, page: dashboard.page };
}

/** All of it in one place at one time: what comes with another state may be gone as soon as it was seen. */
const says = (page, ...texts) => {
  const all = texts.map((text) => `:has-text("${text}")`).join("");
  return page.waitForSelector(`main${all}, .notice${all}, dialog${all}`);
};

scenario(
  "an empty fleet, a search without a find, an unknown device: it says what is going on",
  async (site) => {
    const { stage, dashboard, page } = await open(site, "#/", { devices: 0 });
    await says(page, "No device yet");
    await says(page, "headwater-agent run");
    stage.populate(3);
    stage.presence.devices = 3;
    await page.waitForSelector("tr[data-device]");
    await page.keyboard.press("/");
    await page.keyboard.type("nobody");
    await says(page, "No device matches “nobody”");
    await page.click(".none a");
    await until("all are there again", async () => (await page.locator("tr[data-device]").count()) === 3);
    stage.metrics = {};
    await page.evaluate(() => {
      location.hash = "#/device/stranger";
    });
    await says(page, "The relay knows no device of this name");
    await says(page, "Nothing in the last 5 min.");
    dashboard.checkErrors();
  },
);

scenario(
  "a connection that breaks, a relay that is away, goes or cannot read Kafka: it says so, and goes on",
  async (site) => {
    const { stage, dashboard, page } = await open(site, "#/");
    await page.waitForSelector("tr[data-device]");
    stage.refuse = { code: 5, message: "Kafka is away" };
    stage.break();
    await says(page, "No connection to the relay.", "it goes on where it left off");
    await dashboard.untilConnection("open");
    await says(page, "The relay cannot read Kafka at present.");
    await says(page, "nothing is lost");
    assert.ok(await page.locator("tr[data-device]").count(), "what is known stays in sight");
    await page.context().setOffline(true);
    stage.break();
    await says(page, "This machine is off line.");
    stage.refuse = null;
    await page.context().setOffline(false);
    await dashboard.untilConnection("open");
    await until("the notice goes", async () => (await page.locator(".notice.warn").count()) === 0);
    stage.break(4400, "test");
    await says(page, "The connection ended.");
    await page.click(".notice button");
    await dashboard.untilConnection("open");
    dashboard.checkErrors();
  },
);

scenario(
  "a token that is about to end, and one that has: another is asked for, and the page goes on",
  async (site) => {
    let good = "first";
    const soon = () => BigInt((Date.now() + 100_000) * 1000);
    const { stage, dashboard, page } = await open(site, "?token=first#/device/unit-00001", {
      prepare: (it) => {
        it.judge = (token) => (token === good ? 0 : 4401);
        it.welcome = { ...it.welcome, tokenExpiresUs: soon() };
      },
    });
    await says(page, "Your token ends in 1 min.");
    await page.click(".notice button");
    await page.keyboard.press("Escape");
    assert.equal(await page.locator("dialog").count(), 0, "not now is an answer");
    good = "second";
    stage.break(4401, "the token has expired");
    await says(page, "A new token, please");
    await page.fill("dialog input", "wrong");
    await page.click("dialog button[type=submit]");
    await says(page, "the token has expired");
    stage.welcome = { mayCommand: true, subject: "stage" };
    await page.fill("dialog input", "second");
    await page.click("dialog button[type=submit]");
    await dashboard.untilConnection("open");
    await until("the charts go on", async () => Object.keys(await dashboard.charts()).length === 6);
    assert.equal(await page.locator("dialog").count(), 0);
    dashboard.checkErrors();
  },
);

scenario(
  "commands: asked first, then sent; reply, failure, expiry and refusal are told apart",
  async (site) => {
    const { stage, dashboard, page } = await open(site, "#/device/unit-00001");
    const ask = (name) => page.click(`.asks button:text-is("${name}")`);
    const outcome = (name) => page.locator(`.replies li[data-command=${name}]`).first();
    const ended = (name, how) =>
      until(`${name} is ${how}`, async () => (await outcome(name).getAttribute("data-outcome")) === how);
    await ask("Restart");
    await says(page, "The agent starts anew in its own place.");
    await page.click("dialog button:text-is('Cancel')");
    assert.equal(stage.commands.length, 0, "no is an answer");
    stage.answer = ({ name }) =>
      ({
        ping: { status: "OK", output: "pong" },
        status: { status: "OK", output: '{"journal":{"bytes":5}}' },
        flush: { status: "FAILED", output: "the journal is full" },
        set: { status: "REFUSED", output: "control.commands of this agent does not allow set" },
        restart: { status: "EXPIRED", output: "unit-00001 was not on line" },
      })[name];
    await ask("Ping");
    await page.keyboard.press("Enter");
    await ended("ping", "ok");
    await ask("Set an interval");
    await page.fill("dialog label:has-text('Which setting') input", "source.system.interval");
    await page.fill("dialog label:has-text('New value') input", "10s");
    await page.click("dialog button[type=submit]");
    await ended("set", "refused");
    assert.deepEqual(stage.commands.at(-1).arguments, ["source.system.interval", "10s"]);
    for (const [name, title, how] of [
      ["flush", "Flush", "failed"],
      ["status", "Status", "ok"],
      ["restart", "Restart", "expired"],
    ]) {
      await ask(title);
      await page.click("dialog button[type=submit]");
      await ended(name, how);
    }
    assert.match(await outcome("restart").textContent(), /expired: nothing was done.*was not on line/);
    assert.match(await outcome("flush").textContent(), /the journal is full/);
    const { id, device, expiresUs } = stage.commands[0];
    assert.ok(id.length > 8);
    assert.equal(device, "unit-00001");
    assert.ok(Math.abs(Number(expiresUs) / 1e6 - Date.now() / 1000 - 30) < 25);
    // Without the right there is nothing to press.
    stage.welcome = { mayCommand: false };
    stage.break();
    await until("the buttons go", async () => (await page.locator(".asks").count()) === 0);
    dashboard.checkErrors();
  },
);

for (const scheme of ["dark", "light"]) {
  scenario(`nothing stands in anyone's way, ${scheme}: names, roles, contrast`, async (site) => {
    const { stage, dashboard, page } = await open(site, "#/", { devices: 300 });
    await page.emulateMedia({ colorScheme: scheme, reducedMotion: "reduce" });
    const check = async (what) => assert.deepEqual(await dashboard.barriers(), [], what);
    await page.waitForSelector("tr[data-device]");
    await page.locator("td.pick input").nth(1).check();
    await check("the fleet");
    stage.loss = { at: Date.now() - 60_000 };
    await page.evaluate(() => {
      location.hash = "#/device/unit-00001";
    });
    await until("the charts are there", async () => Object.keys(await dashboard.charts()).length === 6);
    await page.click("button.chip");
    await page.waitForSelector("#inspector .histogram");
    for (const name of ["Ping", "Flush"]) {
      stage.answer = () => ({ status: name === "Ping" ? "OK" : "FAILED", output: "" });
      await page.click(`.asks button:text-is("${name}")`);
      await page.click("dialog button[type=submit]");
    }
    await page.waitForSelector(".replies .bad");
    await check("a device, with the inspector and replies");
    await page.click(".asks button:text-is('Set an interval')");
    await check("a question");
    await page.click("dialog button:text-is('Cancel')");
    await page.evaluate(() => {
      location.hash = "#/compare?device=unit-00001&device=unit-00003";
    });
    await page.waitForSelector(".compared");
    await until("the charts are there", async () => (await page.locator(".chart").count()) === 6);
    await check("a comparison");
    stage.judge = () => 4401;
    stage.break(4401);
    await page.waitForSelector("dialog.token");
    await check("a token's end");
    dashboard.checkErrors();
  });
}

for (const [width, height] of [
  [390, 844],
  [820, 1180],
  [2560, 1440],
  [3840, 2160],
]) {
  scenario(`at ${width} pixels nothing is cut off, in any view`, async (site) => {
    const { dashboard, page } = await open(site, "#/", { devices: 300, width, height });
    const fits = async (what) => {
      const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.ok(over <= 0, `${what} is ${over} pixels wider than the page`);
    };
    await page.waitForSelector("tr[data-device]");
    await fits("the fleet");
    await page.click("button.chip");
    for (const hash of [
      "#/device/unit-00001",
      "#/device/unit-00001?metric=pressure",
      "#/compare?device=unit-00001&device=unit-00002",
    ]) {
      await page.evaluate((to) => {
        location.hash = to;
      }, hash);
      await page.waitForSelector(".chart canvas");
      await fits(hash);
    }
    await page.evaluate(() => {
      location.hash = "#/device/unit-00001";
    });
    await page.click(".asks button:text-is('Set an interval')");
    const box = await page.locator("dialog").boundingBox();
    assert.ok(
      box.x >= 0 && box.x + box.width <= width && box.y >= 0 && box.y + box.height <= height,
      JSON.stringify(box),
    );
    dashboard.checkErrors();
  });
}
