/** Charts over history, played by a stage: what is missing is drawn as such, ranges are moved by hand and by key, devices compared. */

import assert from "node:assert/strict";
import { Dashboard } from "./harness/browser.js";
import { scenario } from "./harness/site.js";
import { Stage } from "./harness/stage.js";
import { until } from "./harness/until.js";

const MINUTE = 60_000;

async function charts(site, hash, prepare = () => {}) {
  const stage = await Stage.start(site);
  stage.populate(20);
  prepare(stage);
  const dashboard = await Dashboard.open(site, `${stage.page}${hash}`);
  await until("the charts are there", async () => Object.keys(await dashboard.charts()).length > 0);
  return { stage, dashboard, page: dashboard.page };
}

/** How many pixels of the first chart are of a colour (a custom property of the page). */
function pixels(page, property, chart = 0) {
  return page.evaluate(
    ([name, at]) => {
      const probe = document.createElement("i");
      probe.style.color = `var(${name})`;
      document.body.append(probe);
      const [r, g, b] = getComputedStyle(probe).color.match(/\d+/g).map(Number);
      probe.remove();
      const canvas = document.querySelectorAll(".chart canvas")[at];
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      let found = 0;
      for (let i = 0; i < data.length; i += 4) {
        const far = Math.abs(data[i] - r) + Math.abs(data[i + 1] - g) + Math.abs(data[i + 2] - b);
        if (data[i + 3] > 200 && far < 24) found += 1;
      }
      return found;
    },
    [property, chart],
  );
}

scenario("gaps, losses and suspect readings are drawn as such", async (site) => {
  const metric = encodeURIComponent("room.temperature");
  const hash = `#/device/unit-00001?metric=${metric}`;
  const whole = await charts(site, hash, (stage) => {
    stage.suspect = () => false;
  });
  await until("the line is drawn", async () => (await pixels(whole.page, "--ink-0")) > 100);
  await until(
    "all of it is read",
    async () => (await whole.dashboard.charts())["room.temperature"].points >= 299,
  );
  assert.equal(await pixels(whole.page, "--bad"), 0);
  const clean = await whole.dashboard.charts();
  assert.equal(clean["room.temperature"].suspects, 0);

  const marked = await charts(site, hash, (stage) => {
    stage.gap = { from: Date.now() - 3 * MINUTE, to: Date.now() - 2 * MINUTE };
    stage.loss = { at: Math.floor(Date.now() / 10_000) * 10_000 - MINUTE };
  });
  await until("the loss is drawn", async () => (await pixels(marked.page, "--bad")) > 20);
  assert.ok((await pixels(marked.page, "--warm")) > 20, "suspect readings have marks");
  await until(
    "all of it is read",
    async () => (await marked.dashboard.charts())["room.temperature"].points >= 200,
  );
  const seen = await marked.dashboard.charts();
  assert.ok(seen["room.temperature"].suspects > 2, JSON.stringify(seen));
  // A suspect 85 °C among 21 °C neither bends the line nor the axis.
  assert.notEqual(seen["room.temperature"].value, "85");
  assert.match(await marked.page.textContent(".story.bad"), /120 readings were given up .*journal full/);
  // A minute without readings, and two batches given up.
  const missing = clean["room.temperature"].points - seen["room.temperature"].points;
  assert.ok(missing > 60 && missing < 110, `${missing} readings fewer`);
  marked.dashboard.checkErrors();
});

scenario(
  "a range is looked at closer, moved and left again: by hand, by key, by the back button",
  async (site) => {
    const { dashboard, page } = await charts(site, "#/device/unit-00001");
    assert.equal(await dashboard.hash(), "#/device/unit-00001");
    const over = page.locator(".chart .u-over").first();
    const box = await over.boundingBox();
    const drag = async (from, to) => {
      await page.mouse.move(box.x + box.width * from, box.y + box.height / 2);
      await page.mouse.down();
      await page.mouse.move(box.x + box.width * to, box.y + box.height / 2, { steps: 5 });
      await page.mouse.up();
    };
    const range = async () => {
      const asked = new URLSearchParams((await dashboard.hash()).split("?")[1]);
      return [Date.parse(asked.get("from")), Date.parse(asked.get("to"))];
    };
    const settled = async (check) => {
      await until("the address has the range", async () => check(...(await range())));
      return range();
    };
    await drag(0.25, 0.5);
    const [from, to] = await settled((a, b) => b > a);
    assert.ok(Math.abs(to - from - 75_000) < 5000, `a quarter of 5 min: ${to - from}`);
    await page.keyboard.down("Shift");
    await drag(0.2, 0.6);
    await page.keyboard.up("Shift");
    const [earlier] = await settled((a) => a < from - 10_000);
    assert.ok(Math.abs(from - earlier - 30_000) < 5000, `moved by ${from - earlier}`);
    await page.keyboard.press("+");
    const [closer] = await settled((a, b) => b - a < 50_000);
    await page.keyboard.press("ArrowLeft");
    await settled((a) => a < closer);
    // Back, step by step.
    await page.goBack();
    await page.goBack();
    await page.goBack();
    assert.deepEqual(await range(), [from, to]);
    await page.goBack();
    assert.equal(await dashboard.hash(), "#/device/unit-00001");
    // A deep link holds all of it.
    const link = `#/device/unit-00002?metric=pressure&from=${new Date(from).toISOString()}&to=${new Date(to).toISOString()}`;
    await page.evaluate((hash) => {
      location.hash = hash;
    }, link);
    await page.waitForSelector(".chart.large[aria-label^=pressure]");
    assert.equal(await page.locator(".chart").count(), 1);
    assert.equal(await page.locator(".steps .live").getAttribute("aria-pressed"), "false");
    await page.keyboard.press("l");
    assert.equal(await page.locator(".steps .live").getAttribute("aria-pressed"), "true");
    dashboard.checkErrors();
  },
);

scenario("a long range is read as buckets that join, and goes on live", async (site) => {
  const { stage, dashboard, page } = await charts(site, "#/device/unit-00001?minutes=360");
  const pressure = () => dashboard.charts().then((all) => all.pressure);
  await until(
    "six hours of readings stand behind the buckets",
    async () => (await pressure()).points >= 6 * 3600,
  );
  const { points } = await pressure();
  await until("new ones join", async () => (await pressure()).points > points);
  const { value, timeMs } = await pressure();
  assert.equal(Number(value), stage.value("unit-00001", "pressure", timeMs));
  assert.match(await page.textContent(".key"), /of every 22 s/);
  // Closer: every reading again.
  await page.click(".windows a:text-is('5 min')");
  await until("every reading is read", async () => !(await page.textContent(".key")).includes("of every"));
  await until("and nothing else is drawn", async () => (await pressure()).points < 400);
  // The relay widens what a slow page gets: that is said.
  stage.widened = 4;
  await page.click(".windows a:text-is('1 h')");
  await page.waitForSelector(".notice:has-text('does not keep up')");
  dashboard.checkErrors();
});

scenario("devices are compared: a chart a metric, a line a device, each with its colour", async (site) => {
  const { dashboard, page } = await charts(site, "#/compare?device=unit-00003&device=unit-00001");
  const lines = () =>
    page
      .locator(".chart")
      .first()
      .locator("li[data-device]")
      .evaluateAll((items) => items.map((item) => item.dataset.device));
  await until("both have a line", async () => (await lines()).length === 2);
  assert.deepEqual(await lines(), ["unit-00003", "unit-00001"]);
  assert.equal(await page.locator(".chart").count(), 6);
  for (const ink of ["--ink-0", "--ink-1"])
    await until(`${ink} is drawn`, async () => (await pixels(page, ink)) > 50);
  await page.fill(".compared input", "unit-00007");
  await page.keyboard.press("Enter");
  await until("the third has a line", async () => (await lines()).length === 3);
  assert.match(await dashboard.hash(), /device=unit-00007/);
  await page.click("button[aria-label='Leave unit-00003 out']");
  await until("two are left", async () => (await lines()).join() === "unit-00001,unit-00007");
  await page.goBack();
  await until("it is back", async () => (await lines()).length === 3);
  dashboard.checkErrors();
});
