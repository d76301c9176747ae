import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { repository } from "./site.js";

const run = promisify(execFile);
const script = join(repository, "scripts/kafka");

/** Apache Kafka by scripts/kafka, with its data in the site. */
export class Kafka {
  static async start(site) {
    const kafka = new Kafka(site.path("kafka"));
    site.onClose(() => kafka.stop());
    await kafka.start();
    return kafka;
  }

  constructor(data) {
    this.data = data;
  }

  /** On the same port and data as before, if it ran before. */
  async start() {
    const { stdout } = await run(script, ["start", "--data", this.data]);
    const [, bootstrap, pid] = /bootstrap=(\S+) pid=(\d+)/.exec(stdout);
    Object.assign(this, { bootstrap, pid: Number(pid) });
  }

  async stop() {
    await run(script, ["stop", "--data", this.data]);
  }
}
