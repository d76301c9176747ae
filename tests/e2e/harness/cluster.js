import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdirSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { listens } from "./mosquitto.js";
import { freePort } from "./port.js";
import { repository } from "./site.js";

const version = process.env.KAFKA_VERSION ?? "4.2.0";
const cache = process.env.XDG_CACHE_HOME ?? join(homedir(), ".cache");
const jars = join(cache, "headwater", `kafka-${version}`, "*");
const JAVA = [
  "-Xms64m",
  "-Xmx256m",
  "-XX:TieredStopAtLevel=1",
  "-XX:+UseSerialGC",
  "-Djava.awt.headless=true",
];

/** Three nodes of Apache Kafka; every topic has three copies, of which two must have a record before it counts. */
export class Cluster {
  nodes = [];

  static async start(site) {
    execFileSync(join(repository, "scripts/kafka"), ["fetch"], { stdio: "ignore" });
    const cluster = new Cluster(site);
    const ports = [];
    while (ports.length < 6) {
      const port = await freePort();
      if (!ports.includes(port)) ports.push(port);
    }
    const id = `A${randomBytes(16).toString("base64url").slice(1, 22)}`;
    for (const number of [1, 2, 3]) cluster.#prepare(number, ports, id);
    await Promise.all(cluster.nodes.map((node) => node.start()));
    cluster.bootstrap = cluster.nodes.map((node) => `127.0.0.1:${node.port}`).join(",");
    return cluster;
  }

  constructor(site) {
    this.site = site;
  }

  #prepare(number, ports, id) {
    const voters = [1, 2, 3].map((other) => `${other}@127.0.0.1:${ports[other + 2]}`).join(",");
    const [port, controller] = [ports[number - 1], ports[number + 2]];
    const data = this.site.path(`kafka-${number}`);
    mkdirSync(data);
    const config = this.site.write(
      `kafka-${number}.properties`,
      `process.roles=broker,controller
node.id=${number}
controller.quorum.voters=${voters}
listeners=PLAINTEXT://127.0.0.1:${port},CONTROLLER://127.0.0.1:${controller}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
log.dirs=${data}
auto.create.topics.enable=false
default.replication.factor=3
min.insync.replicas=2
unclean.leader.election.enable=false
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
offsets.topic.replication.factor=3
offsets.topic.num.partitions=6
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
transaction.state.log.num.partitions=6
share.coordinator.state.topic.replication.factor=3
share.coordinator.state.topic.min.isr=2
log.cleaner.dedupe.buffer.size=16777216
broker.heartbeat.interval.ms=1000
broker.session.timeout.ms=4000
replica.lag.time.max.ms=4000
`,
    );
    const java = ["-cp", jars];
    execFileSync("java", ["-Xmx64m", ...java, "kafka.tools.StorageTool", "format", "-t", id, "-c", config], {
      stdio: "ignore",
    });
    this.nodes.push(new Node(this.site, number, port, [...JAVA, ...java, "kafka.Kafka", config]));
  }
}

class Node {
  constructor(site, number, port, command) {
    Object.assign(this, { site, number, port, command });
  }

  async start() {
    this.program = this.site.start(`kafka-${this.number}`, "java", this.command);
    await this.program.ready(
      `node ${this.number} of Kafka has started`,
      async () => this.program.log().includes("Kafka Server started") && (await listens(this.port)),
      90_000,
    );
  }

  kill() {
    return this.program.kill("SIGKILL");
  }
}
