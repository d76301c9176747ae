import { join } from "node:path";
import { binaries } from "./site.js";
import { toml } from "./toml.js";

/** `headwater-agent run` that replays a trace once, at its own times. `name`: what its files are called. `program`: which agent. */
export function startAgent(
  site,
  {
    device,
    name = device,
    mosquitto,
    trace,
    speed = "max",
    batch = {},
    uplink = {},
    source = {},
    settings: more = {},
    program = join(binaries, "headwater-agent"),
  },
) {
  const settings = {
    device,
    batch: { readings: 80, age: "200ms", ...batch },
    uplink: {
      broker: mosquitto.url,
      ack_timeout: "1s",
      backoff: { min: "50ms", max: "500ms" },
      ...uplink,
    },
    // Its own figures, every five minutes by the clock, would come between the trace's readings.
    health: { interval: "0s" },
    ...more,
    source: [{ type: "replay", path: trace.path, speed, at_end: "stop", times: "original", ...source }],
  };
  const config = site.write(`agent-${name}.toml`, toml(settings));
  return site.start(`agent-${name}`, program, ["run", "--config", config]);
}
