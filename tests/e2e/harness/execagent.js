import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { binaries } from "./site.js";
import { toml } from "./toml.js";

/** An agent whose `exec note-N` appends N to a file, `exec slow-N` after some seconds. */
export function startExecAgent(site, mosquitto, device) {
  const notes = site.path(`notes-${device}`);
  const program = (text, seconds) => ["/bin/sh", "-c", `sleep ${seconds}; echo ${text} >> ${notes}`];
  const exec = {};
  for (let number = 0; number < 10; number++) {
    exec[`note-${number}`] = program(number, 0);
    exec[`slow-${number}`] = program(number, 3);
  }
  const settings = {
    device,
    state_dir: site.path(`state-${device}`),
    uplink: { broker: mosquitto.url, backoff: { min: "50ms", max: "500ms" } },
    health: { interval: "0s" },
    control: { commands: ["ping", "status", "flush", "set", "config", "restart", "exec"], exec },
    source: [{ type: "simulated" }],
  };
  const config = site.write(`agent-${device}.toml`, toml(settings));
  return site.start(`agent-${device}`, join(binaries, "headwater-agent"), ["run", "--config", config]);
}

/** What `exec` of this device has written, a line each. */
export function notes(site, device) {
  const path = site.path(`notes-${device}`);
  return existsSync(path) ? readFileSync(path, "utf8").trim().split("\n") : [];
}
