/** A program that is started again whenever it ends, as a service manager does; until the site is closed. */
export class Service {
  starts = [];

  constructor(site, name, command, args, options = {}) {
    Object.assign(this, { site, name, command, args, options });
    site.onClose(() => this.stop());
    this.#start();
  }

  #start() {
    const program = this.site.start(this.name, this.command, this.args, this.options);
    this.starts.push(program);
    program.exit.then(() => {
      // Not at once: one that cannot even begin would keep a core busy.
      this.timer = setTimeout(() => this.stopped || this.site.closed || this.#start(), 100);
    });
  }

  /** The process that runs. */
  get program() {
    return this.starts.at(-1);
  }

  async stop() {
    this.stopped = true;
    clearTimeout(this.timer);
    if (!this.program.exited) await this.program.kill("SIGTERM");
  }
}
