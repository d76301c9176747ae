/** On machines of 32 bits, seconds since 1970 do not end in 2038: qemu is told that it is fifteen years later, and tells the agent. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { repository, scenario } from "../e2e/harness/site.js";
import { toml } from "../e2e/harness/toml.js";
import { until } from "../e2e/harness/until.js";
import { emulated } from "./emulated.js";

const targets = (process.env.HEADWATER_CROSS ?? "").split(" ").filter((target) => /^armv?\d?-/.test(target));

/** As after2038.c has it. */
const LATER_S = 15 * 365 * 86_400;

assert.ok(targets.length > 0, "HEADWATER_CROSS names no target of 32 bits");

for (const target of targets) {
  scenario(`readings of ${target} have the year that it is`, async (site) => {
    const shift = site.path("after2038.so");
    execFileSync("cc", ["-shared", "-fPIC", "-o", shift, join(repository, "tests/cross/after2038.c")]);
    const program = emulated(site, target);
    const state = site.path("state");
    const settings = {
      device: "gw-2038",
      state_dir: state,
      batch: { readings: 5 },
      uplink: { broker: "mqtt://127.0.0.1:1" },
      journal: { sync_after: "0s" },
      clock: { trust: "always" },
      source: [{ type: "simulated", interval: "100ms" }],
    };
    const config = site.write("agent.toml", toml(settings));
    // The dynamically linked qemu, since nothing can be put in front of the libc of a static one.
    const agent = site.start("agent", emulated(site, target, ""), ["run", "--config", config], {
      env: { LD_PRELOAD: shift },
    });
    const shown = () =>
      execFileSync(program, ["journal", "export", "--dir", state], {
        encoding: "utf8",
        stdio: ["ignore", "pipe", "ignore"],
      });
    await until("readings are on flash", () => shown().split("\n").length > 10, 60_000);
    assert.equal((await agent.kill("SIGTERM", 60_000)).code, 0);
    const [, ...rows] = shown().trimEnd().split("\n");
    for (const row of rows) {
      const seconds = Number(row.split(",")[2]) / 1e6;
      assert.ok(seconds > 2 ** 31, `${row}: 32 bits do not hold the seconds`);
      assert.ok(Math.abs(seconds - LATER_S - Date.now() / 1000) < 3600, `${row}: it is that time`);
    }
  });
}
