/**
 * Runs this folder for real: readings go from agents through Mosquitto, the relay (bridge and rows) and Kafka into PostgreSQL, by Kafka Connect
 * with Debezium's JDBC sink, which is killed twice on the way. Then the table has to hold each reading once, bit for bit.
 *
 *   cargo build --workspace --bins && HEADWATER_PYTHON=.venv/bin/python node deploy/postgresql/check.mjs
 *
 * Needs what `scripts/test --only fetch` fetches, and Debian's postgresql and maven. Not a part of scripts/test: it brings some 75 MB from Maven
 * Central, and takes a minute or two.
 */

import { execFileSync } from "node:child_process";
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { startAgent } from "../../tests/e2e/harness/agent.js";
import { Kafka } from "../../tests/e2e/harness/kafka.js";
import { Mosquitto } from "../../tests/e2e/harness/mosquitto.js";
import { freePort } from "../../tests/e2e/harness/port.js";
import { Relay } from "../../tests/e2e/harness/relay.js";
import { repository, scenario } from "../../tests/e2e/harness/site.js";
import { Trace } from "../../tests/e2e/harness/trace.js";
import { until } from "../../tests/e2e/harness/until.js";

const folder = import.meta.dirname;
const cache = join(process.env.XDG_CACHE_HOME ?? join(homedir(), ".cache"), "headwater/connect-4.2.0");

/** The jars of Connect itself; where Kafka's distribution is unpacked, they are in it. */
const RUNTIME = `<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>headwater</groupId><artifactId>connect-runtime</artifactId><version>1</version><dependencies>
${[
  "org.apache.kafka:connect-runtime:4.2.0",
  "org.apache.kafka:connect-json:4.2.0",
  "org.slf4j:slf4j-simple:1.7.36",
]
  .map((name) => name.split(":"))
  .map(
    ([group, name, version]) =>
      `<dependency><groupId>${group}</groupId><artifactId>${name}</artifactId><version>${version}</version></dependency>`,
  )
  .join("\n")}</dependencies></project>`;

function fetch(pom, to) {
  if (existsSync(to)) return;
  execFileSync(
    "mvn",
    [
      "-q",
      "-B",
      "-f",
      pom,
      "dependency:copy-dependencies",
      "-DincludeScope=runtime",
      `-DoutputDirectory=${to}`,
    ],
    { stdio: "inherit" },
  );
}

/** PostgreSQL on a free port; it refuses to run as root. */
async function postgres(site) {
  const bin = `/usr/lib/postgresql/${readdirSync("/usr/lib/postgresql").sort().at(-1)}/bin`;
  const [port, data] = [await freePort(), site.path("postgresql")];
  mkdirSync(data);
  const [as, ...rest] = process.getuid() === 0 ? ["runuser", "-u", "postgres", "--"] : ["env"];
  if (process.getuid() === 0) {
    chmodSync(site.directory, 0o755);
    execFileSync("chown", ["postgres", data]);
  }
  const run = (program, ...args) =>
    execFileSync(as, [...rest, join(bin, program), ...args], { encoding: "utf8", cwd: data });
  run("initdb", "-D", data, "-A", "trust", "-U", "headwater");
  const args = ["-D", data, "-p", String(port), "-k", data, "-c", "listen_addresses=127.0.0.1"];
  const program = site.start("postgresql", as, [...rest, join(bin, "postgres"), ...args], { cwd: data });
  const connection = ["-h", "127.0.0.1", "-p", String(port), "-U", "headwater", "-v", "ON_ERROR_STOP=1"];
  await program.ready("PostgreSQL answers", () =>
    run("psql", ...connection, "-d", "postgres", "-c", "SELECT 1"),
  );
  run("psql", ...connection, "-d", "postgres", "-c", "CREATE DATABASE headwater");
  const query = (sql) =>
    run("psql", ...connection, "-d", "headwater", "-At", "-F", " ", "-c", sql)
      .trimEnd()
      .split("\n");
  query(readFileSync(join(folder, "readings.sql"), "utf8"));
  return { port, query };
}

/** Connect with this folder's files, but for where things listen and lie. */
async function connect(site, kafka, database) {
  mkdirSync(cache, { recursive: true });
  fetch(site.write("runtime.xml", RUNTIME), join(cache, "runtime"));
  fetch(join(folder, "pom.xml"), join(cache, "plugins/debezium-connector-jdbc"));
  const worker = readFileSync(join(folder, "connect.properties"), "utf8")
    .replace("localhost:9092", kafka.bootstrap)
    .replace("plugin.path=/opt/kafka-plugins", `plugin.path=${join(cache, "plugins")}`)
    .replace("/var/lib/kafka-connect/offsets", site.path("offsets"))
    .replace("http://localhost:8083", `http://127.0.0.1:${await freePort()}`);
  const sink = readFileSync(join(folder, "readings-sink.json"), "utf8").replace(
    "localhost:5432",
    `127.0.0.1:${database.port}`,
  );
  const files = [site.write("connect.properties", worker), site.write("readings-sink.json", sink)];
  return () =>
    site.start("connect", "java", [
      ...["-Xmx512m", "-cp", `${join(cache, "runtime")}/*`],
      ...["org.apache.kafka.connect.cli.ConnectStandalone", ...files],
    ]);
}

scenario(
  "Kafka Connect fills PostgreSQL with each reading once, though it is killed",
  async (site) => {
    const [kafka, mosquitto, database] = await Promise.all([
      Kafka.start(site),
      Mosquitto.start(site),
      postgres(site),
    ]);
    const relay = await Relay.start(site, { kafka, mosquitto, settings: { rows: { enabled: true } } });
    const start = await connect(site, kafka, database);
    const sensors = Trace.read(join(repository, "bench/data/sensors-1hz.csv"));
    const trace = sensors.slice(site, "trace.csv", 0, 3000);
    const devices = ["a", "b", "c"];
    for (const device of devices) startAgent(site, { device, mosquitto, trace });
    const all = trace.count * devices.length;
    await until(
      "all rows are made",
      async () => (await relay.metric("headwater_rows_rows_total")) >= all,
      60_000,
    );
    const held = () => Number(database.query("SELECT count(*) FROM readings")[0]);
    let program = start();
    let kills = 0;
    for (let before = held(); before < all; before = held()) {
      await program.ready("more rows are in the table", () => held() > before, 90_000);
      if (kills < 2) {
        await program.kill("SIGKILL");
        program = start();
        kills += 1;
      }
    }
    for (const device of devices)
      for (const [metric, readings] of Object.entries(trace.readings)) {
        const rows = database.query(
          `SELECT time_us, encode(float8send(value), 'hex') FROM readings WHERE device = '${device}' AND metric = '${metric}' ORDER BY seq, index`,
        );
        const expected = readings.map(([time, bits]) => `${time} ${bits}`);
        if (rows.join() !== expected.join()) throw new Error(`${device} ${metric}: not what was sampled`);
      }
    console.log(`${held()} rows of ${all} readings, bit for bit; Connect killed ${kills} times`);
  },
  { limit: 400_000 },
);
