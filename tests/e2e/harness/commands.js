import { join } from "node:path";
import { createInterface } from "node:readline";
import { python, repository } from "./site.js";
import { GivenUp, until } from "./until.js";

/** Another program that sends commands through Kafka, and sees the replies and the dead letters. */
export class Commands {
  replies = [];
  letters = [];

  static async start(site, kafka) {
    const commands = new Commands(site, kafka);
    await commands.program.ready("who sends commands is connected", () => commands.ready);
    return commands;
  }

  constructor(site, kafka) {
    const script = join(repository, "tests/e2e/python/commands.py");
    this.program = site.start("commands", python, [script, kafka.bootstrap], {
      stdin: "pipe",
      stdout: "pipe",
    });
    createInterface({ input: this.program.child.stdout }).on("line", (line) => {
      const { kind, ...record } = JSON.parse(line);
      if (kind === "ready") this.ready = true;
      else (kind === "reply" ? this.replies : this.letters).push(record);
    });
  }

  send(command) {
    this.program.child.stdin.write(`${JSON.stringify(command)}\n`);
  }

  of(id) {
    return this.replies.filter((reply) => reply.id === id);
  }

  /** Waits for the replies to these, and returns the first of each. */
  async untilReplied(ids, limit = 30_000) {
    await until(
      `${ids.length} commands have a reply`,
      () => {
        if (this.program.exited) throw new GivenUp("the reader of replies ended");
        const missing = ids.filter((id) => this.of(id).length === 0);
        if (missing.length === 0) return true;
        throw new Error(`missing: ${missing}`);
      },
      limit,
    );
    return ids.map((id) => this.of(id)[0]);
  }
}
