/** `headwater-relay demo`: one process, nothing installed. */

import assert from "node:assert/strict";
import { createServer } from "node:net";
import { join } from "node:path";
import { Dashboard } from "./harness/browser.js";
import { Kafka } from "./harness/kafka.js";
import { Live } from "./harness/live.js";
import { Mosquitto } from "./harness/mosquitto.js";
import { freePort } from "./harness/port.js";
import { binaries, scenario } from "./harness/site.js";
import { Telemetry } from "./harness/telemetry.js";
import { until } from "./harness/until.js";

const command = join(binaries, "headwater-relay");

/** Starts a demo on a free port and waits until its page answers. */
async function demo(site, args = [], options = {}) {
  const port = await freePort();
  const program = site.start("demo", command, ["demo", "--port", String(port), ...args], options);
  const page = `http://127.0.0.1:${port}/`;
  await program.ready("the demo's page answers", async () => (await fetch(page)).ok);
  assert.match(program.log(), new RegExp(`http://[\\w.]+:${port}`), "it prints the address");
  return { program, page, port, live: `ws://127.0.0.1:${port}/v1/live` };
}

async function agents(page) {
  return (await fetch(`${page}demo/agents`)).json();
}

scenario(
  "devices and a moving chart; a cut link: the backlog grows, drains, and leaves no hole",
  async (site) => {
    const { page, live } = await demo(site, ["--for", "110s"]);
    const dashboard = await Dashboard.open(site, page);
    await dashboard.untilConnection("open");
    const list = await agents(page);
    assert.ok(list.length >= 3, `${list.length} agents`);
    for (const { device } of list) {
      await until(`${device} is on line and sends`, async () => {
        const row = await dashboard.row(device);
        return row?.online && row.rate > 0;
      });
    }
    // Whose link is cut: one that samples often.
    const rates = await Promise.all(
      list.map(async ({ device }) => [(await dashboard.row(device)).rate, device]),
    );
    const [, device] = rates.sort(([a], [b]) => b - a)[0];

    // An independent witness of what arrives.
    const witness = await Live.open(site, live);
    witness.subscribe({ devices: [device] });
    await witness.next("subscribed");

    await dashboard.device(device);
    await until("the charts are there", async () => Object.keys(await dashboard.charts()).length > 0);
    const before = await dashboard.picture();
    await until("the chart moves", async () => (await dashboard.picture()) !== before);

    const waiting = async () =>
      (await agents(page)).find((agent) => agent.device === device).waiting_readings;
    const link = dashboard.page.locator(`button[data-link="${device}"]`);
    await link.click();
    await until(
      "the switch shows the link as cut",
      async () => (await link.getAttribute("aria-checked")) === "false",
    );
    const begun = await waiting();
    await until("the backlog grows", async () => (await waiting()) > begun + 100);
    const most = await waiting();
    await link.click();
    await until("the backlog drains", async () => (await waiting()) < most / 2, 60_000);
    await dashboard.page.locator(".story.drained").waitFor({ timeout: 60_000 });

    // What came is one chain, and the page has every reading of it.
    const frames = () => witness.of("data").map((data) => data.decoded);
    await until("the witness has the backlog", () => frames().length > 3);
    const next = new Map();
    for (const { stream, seq } of frames()) {
      assert.equal(seq, next.get(stream) ?? seq, "the next seq");
      next.set(stream, seq + 1);
    }
    const [metric, column] = Object.entries(frames()[0].columns).find(([, each]) => each.type === "f64");
    await until("the chart has at least what the witness has", async () => {
      const seen = frames().reduce((sum, frame) => sum + (frame.columns[metric]?.readings.length ?? 0), 0);
      return (await dashboard.charts())[metric]?.points >= seen;
    });
    assert.ok(column.readings.length > 0);
    dashboard.checkErrors();
  },
  { limit: 170_000 },
);

scenario("it ends by itself after --for, with code 0", async (site) => {
  const { program } = await demo(site, ["--for", "3s", "--agents", "1"]);
  assert.equal((await program.exit).code, 0, program.log());
});

scenario("it stops cleanly on SIGINT", async (site) => {
  const { program } = await demo(site, ["--agents", "1"]);
  assert.equal((await program.kill("SIGINT", 10_000)).code, 0, program.log());
});

scenario("a taken port is named, and another offered", async (site) => {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  site.onClose(() => new Promise((resolve) => server.close(resolve)));
  const { port } = server.address();
  const program = site.start("demo", command, ["demo", "--port", String(port), "--for", "20s"]);
  const { code } = await program.exit;
  assert.ok(code > 0 && code < 100, `exit code ${code}`);
  assert.match(program.log(), new RegExp(`${port}[^]*--port`));
  assert.doesNotMatch(program.log(), /panicked/);
});

scenario("two at once, from a directory that cannot be written to", async (site) => {
  // Not even root can write to /proc.
  const both = await Promise.all([1, 2].map(() => demo(site, ["--agents", "2"], { cwd: "/proc" })));
  for (const { page, live } of both) {
    // Until it has read its log, a gateway asks clients to come again.
    await until("data comes", async () => {
      const client = await Live.open(site, live);
      client.subscribe();
      return client.next("data").catch(() => false);
    });
    assert.ok((await agents(page)).length >= 2);
  }
});

scenario("wrong flags are refused in words", async (site) => {
  for (const args of [
    ["--for", "soon"],
    ["--port", "99999"],
    ["--agents", "many"],
  ]) {
    const program = site.start("demo", command, ["demo", ...args]);
    const { code } = await program.exit;
    assert.ok(code > 0 && code < 100, `${args}: exit code ${code}`);
    assert.match(program.log(), new RegExp(args[0]), args.join(" "));
  }
});

scenario("with --kafka and --mqtt it uses real ones", async (site) => {
  const [kafka, mosquitto] = await Promise.all([Kafka.start(site), Mosquitto.start(site)]);
  const real = ["--kafka", kafka.bootstrap, "--mqtt", mosquitto.url];
  const { program, page } = await demo(site, ["--agents", "2", ...real]);
  const telemetry = new Telemetry(site, kafka);
  const devices = (await agents(page)).map((agent) => agent.device);
  assert.equal(devices.length, 2);
  for (const device of devices) await telemetry.untilCount(device, 20);
  assert.equal((await program.kill("SIGINT", 20_000)).code, 0, program.log());
  for (const device of devices) telemetry.checkChain(device);
});
