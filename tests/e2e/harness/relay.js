import { join } from "node:path";
import { parseMetrics } from "./metrics.js";
import { freePort } from "./port.js";
import { binaries } from "./site.js";
import { toml } from "./toml.js";

/** `headwater-relay run` (or `bridge`, `gateway`) on free ports. */
export class Relay {
  static async start(site, options) {
    const relay = await Relay.prepare(site, options);
    await relay.start();
    return relay;
  }

  /** All but started. `settings` is laid over what the tests need. */
  static async prepare(site, { kafka, mosquitto, settings = {}, part = "run" }) {
    const [port, admin] = [await freePort(), await freePort()];
    const all = merged(
      {
        log: { level: "info,headwater_relay=debug" },
        admin: { listen: `127.0.0.1:${admin}` },
        kafka: { bootstrap: kafka.bootstrap, partitions: 4 },
        mqtt: { broker: mosquitto?.url },
        bridge: { state_interval: "500ms", checkpoint_interval: "2s", session_timeout: "3s" },
        gateway: { listen: `127.0.0.1:${port}` },
      },
      settings,
    );
    return new Relay(site, part, port, admin, site.write(`relay-${port}.toml`, toml(all)));
  }

  constructor(site, part, port, admin, config) {
    Object.assign(this, { site, part, port, config });
    this.page = `http://127.0.0.1:${port}/`;
    this.live = `ws://127.0.0.1:${port}/v1/live`;
    this.admin = `http://127.0.0.1:${admin}`;
  }

  /** Starts it, with the same settings as before if it ran before, and waits until it is ready. */
  async start() {
    this.launch();
    await this.untilReady();
  }

  launch() {
    this.program = this.site.start("relay", join(binaries, "headwater-relay"), [
      this.part,
      "--config",
      this.config,
    ]);
  }

  async untilReady() {
    await this.program.ready(
      "the relay says it is ready",
      async () => (await fetch(`${this.admin}/readyz`)).ok,
    );
  }

  /** Waits until what it says of itself has this text. */
  async says(text, limit) {
    const told = async () => {
      const answer = await (await fetch(`${this.admin}/readyz`)).text();
      if (answer.includes(text)) return true;
      throw new Error(answer);
    };
    await this.program.ready(`the relay says: ${text}`, told, limit);
  }

  async metrics() {
    return parseMetrics(await (await fetch(`${this.admin}/metrics`)).text());
  }

  /** The sum of a metric over all its labels that contain `labels`. */
  async metric(name, labels = {}) {
    return (await this.metrics())
      .filter((sample) => sample.name === name)
      .filter((sample) => Object.entries(labels).every(([label, value]) => sample.labels[label] === value))
      .reduce((sum, sample) => sum + sample.value, 0);
  }
}

function merged(base, over) {
  const out = { ...base };
  for (const [key, value] of Object.entries(over)) {
    const table = typeof value === "object" && value !== null && !Array.isArray(value);
    out[key] = table ? merged(base[key] ?? {}, value) : value;
  }
  return out;
}
