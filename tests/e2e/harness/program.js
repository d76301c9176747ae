import { spawn } from "node:child_process";
import { closeSync, openSync, readFileSync, writeSync } from "node:fs";
import { GivenUp, until } from "./until.js";

const running = new Set();
// Whatever ends this process, nothing that it started stays behind.
process.on("exit", () => {
  for (const program of running) program.child.kill("SIGKILL");
});
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => process.exit(1));

/** A running program whose output goes to a file. */
export class Program {
  constructor(name, command, args, { log, env = {}, cwd, stdin = "ignore", stdout } = {}) {
    this.name = name;
    this.logFile = log;
    const out = openSync(log, "a");
    writeSync(out, `$ ${command} ${args.join(" ")}\n`);
    this.child = spawn(command, args, {
      cwd,
      env: { ...process.env, ...env },
      stdio: [stdin, stdout ?? out, out],
    });
    closeSync(out);
    running.add(this);
    this.exit = new Promise((resolve) => {
      this.child.once("error", (error) => resolve({ code: -1, error }));
      this.child.once("exit", (code, signal) => resolve({ code, signal }));
    }).then((exit) => {
      running.delete(this);
      this.exited = exit;
      return exit;
    });
  }

  get pid() {
    return this.child.pid;
  }

  log() {
    return readFileSync(this.logFile, "utf8");
  }

  /** Waits for a condition that only this program, running, can bring about. */
  async ready(what, check, limit) {
    await until(
      what,
      () => {
        if (this.exited) {
          throw new GivenUp(`${this.name} ended with ${JSON.stringify(this.exited)} before ${what}`);
        }
        return check();
      },
      limit,
    );
    return this;
  }

  /** Sends the signal and waits for the end; SIGKILL after `limit` milliseconds. */
  async kill(signal = "SIGKILL", limit = 15_000) {
    this.child.kill(signal);
    const timer = setTimeout(() => this.child.kill("SIGKILL"), limit);
    const exit = await this.exit;
    clearTimeout(timer);
    return exit;
  }
}
