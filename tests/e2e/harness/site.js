import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { test } from "node:test";
import { Program } from "./program.js";

export const repository = resolve(import.meta.dirname, "../../..");
export const binaries = resolve(process.env.HEADWATER_BIN ?? join(repository, "target/debug"));
export const python = resolve(process.env.HEADWATER_PYTHON ?? join(repository, ".venv/bin/python"));

/** Where one scenario runs: a temporary directory, and the programs started in it. */
export class Site {
  #closers = [];
  #onFailure = [];
  #count = 0;
  #closed = false;

  constructor() {
    this.directory = mkdtempSync(join(tmpdir(), "headwater-e2e-"));
  }

  /** Whether the scenario is over: nothing can be started any more. */
  get closed() {
    return this.#closed;
  }

  path(name) {
    return join(this.directory, name);
  }

  write(name, text) {
    writeFileSync(this.path(name), text);
    return this.path(name);
  }

  /** Starts a program; its output goes to a log of that name. Fails once the site is closed: nobody would end the program any more. */
  start(name, command, args, options = {}) {
    if (this.#closed) throw new Error(`${name} is not started: the scenario is over`);
    const log = this.path(`${String(++this.#count).padStart(2, "0")}-${name}.log`);
    // What it leaves in a temporary directory goes with the site.
    const env = { TMPDIR: this.directory, ...options.env };
    const program = new Program(name, command, args, { log, ...options, env });
    this.onClose(() => program.exited ?? program.kill("SIGTERM"));
    return program;
  }

  /** Called when the scenario ends, the last given first; at once if it has ended. */
  onClose(close) {
    if (!this.#closed) this.#closers.push(close);
    else Promise.resolve(close()).catch(() => {});
  }

  /** Called when the scenario has failed, while everything still runs. */
  onFailure(show) {
    this.#onFailure.push(show);
  }

  /** What there is to see of a scenario that failed: the end of every log. */
  async explain(lines = 25) {
    for (const show of this.#onFailure) await show().catch(() => {});
    for (const path of logs(this.directory)) {
      let text = readFileSync(path, "utf8").trimEnd().split("\n");
      const all = text.length;
      // Kafka says a lot while all is well.
      if (path.endsWith("kafka.log")) text = text.filter((line) => /WARN|ERROR|Exception/.test(line));
      text = text.slice(-lines);
      console.log(`--- ${path}: ${text.length} of ${all} lines`);
      console.log(text.map(shortened).join("\n"));
    }
  }

  async close({ keep = false } = {}) {
    this.#closed = true;
    const failures = [];
    for (const close of this.#closers.reverse()) {
      try {
        await close();
      } catch (error) {
        // The others are to be closed all the same.
        failures.push(error);
      }
    }
    if (failures.length > 0) throw failures[0];
    if (!keep) rmSync(this.directory, { recursive: true, force: true, maxRetries: 5 });
  }
}

function logs(directory) {
  return [...readdirSync(directory), join("kafka", "kafka.log")]
    .filter((name) => name.endsWith(".log"))
    .map((name) => join(directory, name))
    .filter((path) => existsSync(path))
    .sort();
}

function shortened(line) {
  return line.length > 300 ? `${line.slice(0, 300)}…` : line;
}

/** A test with a site of its own. `limit`: milliseconds. On failure the logs' ends are printed and the site is kept. */
export function scenario(name, body, { limit = 120_000 } = {}) {
  test(name, async () => {
    const site = new Site();
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`not finished after ${limit / 1000} s`)), limit);
    });
    let failed = true;
    try {
      await Promise.race([body(site), late]);
      failed = false;
    } finally {
      clearTimeout(timer);
      if (failed) await site.explain();
      await site.close({ keep: failed });
    }
  });
}
