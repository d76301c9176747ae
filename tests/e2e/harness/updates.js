import assert from "node:assert/strict";
import { execFile, execFileSync } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { Kafka } from "./kafka.js";
import { Mosquitto } from "./mosquitto.js";
import { Relay } from "./relay.js";
import { Releases } from "./releases.js";
import { Service } from "./service.js";
import { binaries, repository } from "./site.js";
import { Telemetry } from "./telemetry.js";
import { toml } from "./toml.js";
import { Trace } from "./trace.js";
import { until } from "./until.js";

const run = promisify(execFile);
const sensors = Trace.read(join(repository, "bench/data/sensors-1hz.csv"));

/** The version that an agent's program says that it is. */
export function versionOf(program) {
  return execFileSync(program, ["--version"], { encoding: "utf8" }).trim().split(" ")[1];
}

/** A program without what only a debugger needs. */
export function strip(program, path) {
  execFileSync("strip", ["-o", path, program]);
  return path;
}

/** Kafka, broker, relay and releases; `agent` is the packaged program. */
export async function stage(site) {
  const [kafka, mosquitto] = await Promise.all([Kafka.start(site), Mosquitto.start(site)]);
  const relay = await Relay.start(site, { kafka, mosquitto, part: "bridge" });
  const releases = await Releases.start(site);
  const telemetry = new Telemetry(site, kafka);
  const agent = strip(join(binaries, "headwater-agent"), site.path("headwater-agent"));
  const target = /host: (.*)/.exec(execFileSync("rustc", ["-vV"], { encoding: "utf8" }))[1];
  return { site, kafka, mosquitto, relay, releases, telemetry, agent, target };
}

/** An agent's settings: it replays a trace in each of its runs. */
export function writeSettings({ site, mosquitto, releases }, device, { update = {}, uplink = {} } = {}) {
  const settings = {
    device,
    state_dir: site.path(`state-${device}`),
    batch: { readings: 80, age: "200ms" },
    uplink: { broker: mosquitto.url, ack_timeout: "1s", backoff: { min: "50ms", max: "500ms" }, ...uplink },
    journal: { sync_after: "0s" },
    health: { interval: "0s" },
    update: { keys: [releases.public], confirm_within: "60s", rate: "100 MiB", ...update },
    source: [{ type: "replay", path: sensors.path, speed: 5, at_end: "stop", times: "original" }],
  };
  return site.write(`agent-${device}.toml`, toml(settings));
}

/** An agent as a service. `program`: the packaged one. */
export function startAgent(place, device, { env, program = place.agent, ...rest } = {}) {
  const config = writeSettings(place, device, rest);
  return new Service(place.site, `agent-${device}`, program, ["run", "--config", config], { env });
}

/** `headwater-relay …`: its exit code and what it printed. */
export async function ask(relay, args) {
  try {
    const { stdout } = await run(join(binaries, "headwater-relay"), [...args, "--config", relay.config]);
    return { code: 0, stdout };
  } catch (error) {
    return { code: error.code, stdout: error.stdout, stderr: error.stderr };
  }
}

export const fleet = (relay, release, ...args) =>
  ask(relay, [
    ...["fleet", "update", "--manifest", release.manifest, "--url", release.url, "--every", "1s"],
    ...["--timeout", "4m", ...(args.includes("--within") ? [] : ["--within", "8m"]), ...args],
  ]);

async function running(relay, device) {
  const { stdout } = await ask(relay, ["command", device, "ping", "--timeout", "20s"]);
  return stdout?.trim().split(" ")[1];
}

/** Waits until Kafka knows these agents, on line and of these versions: what an agent says is there a little later than the agent itself. */
export async function known(relay, release, versions) {
  const told = async () => {
    const { stdout } = await fleet(relay, release, "--force", "--dry-run");
    const lines = stdout.split("\n").map((line) => line.split(/\s+/).join(" "));
    const missing = [...versions].filter(
      ([device, version]) => !lines.includes(`${device} ${version} on line`),
    );
    if (missing.length === 0) return true;
    throw new Error(`of ${missing} it says:\n${stdout}`);
  };
  await until("Kafka knows all agents", told, 240_000);
}

/** Waits until the device says that it is this version; a reply may take its time. */
export async function runs(relay, device, version) {
  const told = async () => {
    const said = await running(relay, device);
    if (said === version) return true;
    throw new Error(`it says ${said}`);
  };
  await until(`${device} runs ${version}`, told, 120_000);
}

export async function online(relay, count) {
  const told = () => relay.metric("headwater_bridge_devices_online");
  await until(`${count} agents are on line`, async () => (await told()) === count, 60_000);
}

/** In each of the device's streams: the trace's first readings, in order, bit for bit; nothing given up. */
export function check(telemetry, device, { streams: least }) {
  const streams = telemetry.checkReplays(device, sensors);
  assert.ok(streams.length >= least, `${device} has ${streams.length} streams`);
}

/** The agent's program that a process runs. */
export const image = (service) =>
  execFileSync("readlink", [`/proc/${service.program.pid}/exe`], { encoding: "utf8" }).trim();
