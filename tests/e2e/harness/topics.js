import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { python, repository } from "./site.js";

function call(script, ...args) {
  const path = join(repository, "tests/e2e/python", script);
  return execFileSync(python, [path, ...args.map(String)], {
    encoding: "utf8",
    stdio: ["ignore", "pipe", "pipe"],
  }).trim();
}

/** What an operator does to topics; see python/topics.py. */
export function topics(kafka, ...args) {
  return call("topics.py", kafka.bootstrap, ...args);
}

/** Batches of these devices, numbered `first` to `last`, a reading each; see python/put.py. */
export function put(kafka, first, last, devices) {
  call("put.py", kafka.bootstrap, "headwater.telemetry", first, last, ...devices);
}

/** Creates all that the bridge needs, as an operator would. */
export function createTopics(kafka, partitions = 2) {
  for (const name of ["telemetry", "devices", "commands"])
    topics(kafka, "create", `headwater.${name}`, partitions);
  for (const name of ["replies", "deadletter"]) topics(kafka, "create", `headwater.${name}`, 1);
}

/** The newest state of each device: name → { device, online, positions: { stream: seq } }. */
export function states(kafka) {
  const lines = call("devices.py", kafka.bootstrap, "headwater.devices").split("\n").filter(Boolean);
  return new Map(lines.map((line) => JSON.parse(line)).map((state) => [state.device, state]));
}
