import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";
import { repository } from "./site.js";

/** For which target the agent in the machine is. */
export const TARGET = process.env.HEADWATER_GATEWAY ?? "aarch64-unknown-linux-musl";
/** The oldest processor of a target's for which Debian has a kernel. */
const MACHINES = {
  aarch64: { qemu: "qemu-system-aarch64", cpu: "cortex-a53", debian: "arm64", serial: "ttyAMA0" },
  arm: { qemu: "qemu-system-arm", cpu: "cortex-a7", debian: "armhf", serial: "ttyAMA0" },
  armv7: { qemu: "qemu-system-arm", cpu: "cortex-a7", debian: "armhf", serial: "ttyAMA0" },
  // Its kernel is not compressed, and large.
  riscv64gc: { qemu: "qemu-system-riscv64", cpu: "rv64", debian: "riscv64", serial: "ttyS0", memory: "256" },
};
const MACHINE = MACHINES[TARGET.split("-")[0]];

/** Where the machine finds the broker, and the server of releases if there is one; nothing else answers on its network. */
const HOST = "10.0.2.100";
export const BROKER_PORT = 1883;
export const BROKER = `mqtt://${HOST}:${BROKER_PORT}`;
const RELEASES_PORT = 8080;
export const RELEASES = `http://${HOST}:${RELEASES_PORT}`;

/** What fetchFiles gives, once a process. */
let fetched;

/** Kernel, initramfs and busybox, brought if they are not there yet. */
export function debian() {
  fetched ??= fetchFiles();
  return fetched;
}

async function fetchFiles() {
  const { stdout } = await promisify(execFile)(join(repository, "scripts/gateway"), [
    "fetch",
    MACHINE.debian,
  ]);
  return Object.fromEntries(
    ["vmlinuz", "initramfs.gz", "busybox"].map((name) => [name, join(stdout.trim(), name)]),
  );
}

/**
 * A computer in qemu (TCG), an aarch64 one unless HEADWATER_GATEWAY names another target, from power-on to power cut. What its kernel and its programs print goes to a log.
 * Its init keeps a shell on one console and tells of the agent on another.
 */
export class Machine {
  /** What the agent told of itself, each with what it took by then: { rss, peak, cpu, written, uptime, status } (`figures` below). */
  told = [];

  /**
   * `disks`: [{ id, node }], `node` as qemu's -blockdev has it; `broker`, `releases`: the host's ports that the machine's broker and its server
   * of releases are; `variables`: of the kernel's command line, and so of init's environment.
   */
  static async powerOn(site, name, { disks, broker, releases, variables = {}, options = [] }) {
    const machine = new Machine();
    machine.site = site;
    const files = await debian();
    const path = (what) => site.path(`${name}.${what}`);
    machine.console = path("console.log");
    const forwards = [[BROKER_PORT, broker], ...(releases ? [[RELEASES_PORT, releases]] : [])].map(
      ([port, own]) => `guestfwd=tcp:${HOST}:${port}-cmd:socat - TCP:127.0.0.1:${own}`,
    );
    const append = Object.entries(variables).map(([key, value]) => `${key}=${value}`);
    machine.poweredOn = Date.now();
    machine.program = site.start(name, MACHINE.qemu, [
      ...[
        "-M",
        "virt",
        "-cpu",
        MACHINE.cpu,
        "-smp",
        "1",
        "-m",
        MACHINE.memory ?? "128",
        "-nodefaults",
        "-no-user-config",
      ],
      ...["-display", "none", "-no-reboot", "-kernel", files.vmlinuz, "-initrd", files["initramfs.gz"]],
      ...["-append", [`console=${MACHINE.serial}`, "quiet", "panic=-1", "cma=0", ...append].join(" ")],
      ...["-serial", `file:${machine.console}`, "-device", "virtio-serial-device"],
      ...["shell", "told"].flatMap((id) => [
        ...[
          "-chardev",
          `socket,id=${id},path=${path(id)},server=on,wait=off`,
          "-device",
          `virtconsole,chardev=${id}`,
        ],
      ]),
      ...["-monitor", `unix:${path("monitor")},server=on,wait=off`],
      // A connection of the machine's is a program of the host's; there is no other way out.
      ...["-netdev", ["user,id=net,restrict=on", ...forwards].join(",")],
      ...["-device", "virtio-net-device,netdev=net"],
      ...disks.flatMap(({ id, node }) => [
        ...["-blockdev", JSON.stringify({ "node-name": id, ...node })],
        ...["-device", `virtio-blk-device,drive=${id},serial=${id},write-cache=on`],
      ]),
      ...options,
    ]);
    const open = async (what) => {
      let socket;
      const opened = async () => {
        socket = await socketAt(path(what));
        return true;
      };
      await machine.until(`qemu opens ${what}`, opened, 180_000);
      return socket;
    };
    [machine.shell, machine.monitor] = [await open("shell"), await open("monitor")];
    const told = await open("told");
    createInterface({ input: told }).on("line", (line) => machine.#hear(line));
    machine.output = "";
    machine.shell.on("data", (bytes) => {
      machine.output += bytes;
    });
    for (const socket of [machine.shell, machine.monitor, told]) socket.on("error", () => {});
    return machine;
  }

  #hear(line) {
    try {
      const [, words, status] = /^((?:[\d.]+ ){5})(\{.*\})\s*$/.exec(line);
      this.told.push({ ...figures(words), status: JSON.parse(status) });
    } catch {
      // The line that the power cut, or the start, left incomplete.
    }
  }

  /** Waits for something that only this machine, running, can bring about. */
  until(what, check, limit = 300_000) {
    return this.program.ready(what, check, limit);
  }

  /** Waits until the agent has told something of itself for which `check(status)` is true. */
  async untilTold(what, check, limit) {
    await this.until(what, () => this.told.length > 0 && check(this.told.at(-1).status), limit);
    return this.told.at(-1).status;
  }

  /** What a command, one line, of the machine's shell prints. */
  async run(command, limit = 180_000) {
    this.number = (this.number ?? 0) + 1;
    const end = `=${this.number}=`;
    const from = this.output.length;
    // The mark is put together by the shell, so that an echo of the command is not taken for its end.
    this.shell.write(`${command}; echo "="${this.number}"= $?"\n`);
    return this.until(
      `the machine's shell has carried out: ${command}`,
      () => {
        const match = new RegExp(`^([\\s\\S]*)${end} (\\d+)\\r?\\n`).exec(this.output.slice(from));
        if (!match) throw new Error(this.output.slice(from).slice(-200));
        if (match[2] !== "0") throw new Error(`it failed with ${match[2]}: ${match[1]}`);
        this.answer = match[1].trim();
        return true;
      },
      limit,
    ).then(() => this.answer);
  }

  /** What a process takes, as the machine sees it. */
  async figures(process) {
    return figures(await this.run(`figures ${process}; echo "$figures"`));
  }

  /** The cable to the network. */
  link(on) {
    this.monitor.write(`set_link net ${on ? "on" : "off"}\n`);
  }

  /** No more than this: the machine stands still, and nothing of its memory is kept. */
  async cut() {
    await this.program.kill("SIGKILL");
    for (const socket of [this.shell, this.monitor]) socket.destroy();
  }

  /** What kernel and programs have printed. */
  log() {
    return readFileSync(this.console, "utf8");
  }
}

/**
 * What `figures` of gateway-init says: memory now and at most, KiB; processor time, seconds; KiB that were written to the disk since
 * power-on; seconds since then.
 */
function figures(words) {
  const [rss, peak, ticks, sectors, uptime] = words.trim().split(/\s+/).map(Number);
  return { rss, peak, cpu: ticks / 100, written: sectors / 2, uptime };
}

function socketAt(path) {
  return new Promise((resolve, reject) => {
    const socket = connect(path, () => resolve(socket));
    socket.once("error", reject);
  });
}
