import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { repository } from "./site.js";

const run = promisify(execFile);
const script = join(repository, "scripts/kafka");

/** Apache Kafka by scripts/kafka, with its data in the site. */
export class Kafka {
  /** `secure`: with a listener for TLS and SASL too, at `kafka.saslSsl`. */
  static async start(site, { secure = false } = {}) {
    const kafka = new Kafka(site.path("kafka"), secure);
    site.onClose(() => kafka.stop());
    await kafka.start();
    return kafka;
  }

  constructor(data, secure) {
    Object.assign(this, { data, secure });
  }

  /** On the same port and data as before, if it ran before. */
  async start() {
    const { stdout } = await run(script, [
      "start",
      "--data",
      this.data,
      ...(this.secure ? ["--secure"] : []),
    ]);
    const [, bootstrap, pid, saslSsl] = /bootstrap=(\S+) pid=(\d+)(?: sasl_ssl=(\S+))?/.exec(stdout);
    Object.assign(this, { bootstrap, saslSsl, pid: Number(pid) });
  }

  /** `kill`: as a crash would. */
  async stop({ kill = false } = {}) {
    await run(script, ["stop", "--data", this.data, ...(kill ? ["--kill"] : [])]);
  }
}
