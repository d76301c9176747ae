import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { copyFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { promisify } from "node:util";
import { Disk } from "./disk.js";
import { durable } from "./journal.js";
import { BROKER, debian, Machine, TARGET } from "./machine.js";
import { binaries, repository } from "./site.js";
import { toml } from "./toml.js";

const PATH = `${process.env.PATH}:/usr/sbin:/sbin`;
const target = resolve(process.env.CARGO_TARGET_DIR ?? join(repository, "target"));
/** Where systemd keeps the state of headwater-agent.service. */
const STATE = "/var/lib/private/headwater-agent";

/** The agent in it, the newest that there is: as it ships (`scripts/cross TARGET` builds it), or with `--profile emulated`. */
export const agent =
  process.env.HEADWATER_GATEWAY_AGENT ??
  ["dist/headwater-agent", "emulated/headwater-agent"]
    .map((name) => join(target, TARGET, name))
    .filter(
      (program) => existsSync(program) && readFileSync(program).subarray(1, 4).equals(Buffer.from("ELF")),
    )
    .sort((a, b) => statSync(a).mtimeMs - statSync(b).mtimeMs)
    .at(-1);
/** Whether that is the one that ships. */
export const ships = agent !== undefined && !/\/emulated\//.test(agent);
/** A Debian's root directory for its architecture, if it is not static. */
export const sysroot = process.env.HEADWATER_SYSROOT;

/**
 * A gateway: its card, and the machine that the card is put into. `mount` says how the journal lies on the card: "own" is a partition of its
 * own, mounted as deploy/fstab says; "root" is the one partition that holds the system too, mounted as ext4 usually is. Whichever of
 * them is written has a cache that a power cut empties (disk.js).
 */
export class Gateway {
  /** Writes that cuts have torn. */
  torn = 0;

  /** `name`: what its files are called. `settings`: name → the agent's settings. `files`: what else is on the card, path → file of this machine. `room`: MiB beside what the journal needs. */
  static async make(site, { name, mount, settings, files = {}, random = Math.random, room = 0 }) {
    const gateway = new Gateway();
    Object.assign(gateway, { site, name, mount, random, boots: 0 });
    const path = (what) => site.path(`${name}.${what}`);
    const root = path("root");
    await build(root, settings, files);
    const image = path("card.ext4");
    const mebibytes = Math.ceil(statSync(agent).size / 2 ** 20) + (mount === "root" ? 40 + room : 16);
    await format(image, mebibytes, ["-L", "gateway", "-d", root]);
    rmSync(root, { recursive: true });
    gateway.image = image;
    if (mount === "own") {
      gateway.image = path("journal.ext4");
      // As deploy/fstab says.
      await format(gateway.image, 24 + room, [
        "-L",
        "headwater",
        "-m",
        "0",
        "-E",
        "lazy_itable_init=0,lazy_journal_init=0",
      ]);
      gateway.card = image;
    }
    gateway.disk = await Disk.serve(site, path("disk"), gateway.image);
    return gateway;
  }

  /** `settings`: the name of those to run by; `broker`, `releases`: ports, as machine.js has them. */
  async powerOn({ broker, releases, settings, variables = {}, options = [] }) {
    // As systemd does at each start, by the sixth field of its line in fstab: the kernel alone refuses a journal of its own that is torn.
    if (this.boots > 0) await tool("e2fsck", ["-p", this.image], [0, 1]);
    await this.disk.powerOn();
    const disks = [{ id: "cut", node: { driver: "nbd", server: { type: "unix", path: this.disk.path } } }];
    if (this.card) {
      disks.push({ id: "card", node: { driver: "file", filename: this.card, "read-only": true } });
    }
    this.machine = await Machine.powerOn(this.site, `${this.name}-${++this.boots}`, {
      disks,
      broker,
      releases,
      variables: {
        agent_settings: settings,
        rootmount: this.mount === "root" ? "rw" : "ro",
        ...variables,
      },
      options,
    });
    return this.machine;
  }

  /** Cuts the power; of what the disk's cache held `mode` survives. Returns what disk.js tells of it. */
  async cut(mode) {
    this.disk.stop();
    await this.machine.cut();
    const lost = await this.disk.powerOff(this.random, mode);
    this.torn += lost.torn;
    return lost;
  }

  /**
   * The state as a start will find it, looked at from outside: the file system is whole once its own journal is replayed, and so
   * is the agent's unless a write was torn. Returns { streams, slots }: stream → numbers, by code of the tests' own, and the folder of programs that came by updates, if there
   * is one. Nothing here may hold up this process: it is other gateways' disk.
   */
  async found() {
    const copy = this.site.path(`${this.name}.found.ext4`);
    await copyFile(this.image, copy);
    // A first run replays the file system's journal, and a second finds nothing to mend.
    await tool("e2fsck", ["-p", copy], [0, 1]);
    await tool("e2fsck", ["-fn", copy]);
    const out = this.site.path(`${this.name}.found`);
    rmSync(out, { recursive: true, force: true });
    mkdirSync(out);
    const [journal, slots] = [join(out, "journal"), join(out, "slots")];
    for (const folder of ["journal", "slots"]) {
      const directory = this.mount === "own" ? `/${folder}` : `${STATE}/${folder}`;
      await tool("debugfs", ["-R", `rdump ${directory} ${out}`, copy]);
    }
    rmSync(copy);
    if (existsSync(journal)) {
      const verify = ["journal", "verify", "--dir", journal];
      // Once something newer stands behind it, what is left of a torn write is not told from damage.
      await tool(join(binaries, "headwater-agent"), verify, this.torn > 0 ? [0, 1] : [0]);
    }
    return { streams: durable(journal), slots };
  }
}

/** What the card holds beside the journal: busybox, the agent, its settings, and an init that does what a distribution's would. */
async function build(root, settings, files) {
  assert.ok(agent, `no agent for ${TARGET} in ${target}: scripts/cross ${TARGET} builds it`);
  const folders = [
    "bin",
    "sbin",
    "dev",
    "proc",
    "sys",
    "tmp",
    "run",
    "mnt",
    "usr/bin",
    "etc/headwater",
    STATE,
  ];
  for (const folder of folders) mkdirSync(join(root, folder), { recursive: true });
  copyFileSync((await debian()).busybox, join(root, "bin/busybox"));
  copyFileSync(agent, join(root, "usr/bin/headwater-agent"));
  for (const [path, file] of await libraries()) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    copyFileSync(file, join(root, path));
  }
  copyFileSync(join(import.meta.dirname, "gateway-init"), join(root, "sbin/init"));
  for (const program of ["bin/busybox", "usr/bin/headwater-agent", "sbin/init"]) {
    chmodSync(join(root, program), 0o755);
  }
  copyFileSync(join(repository, "deploy/fstab"), join(root, "etc/fstab"));
  for (const [name, table] of Object.entries(settings)) {
    const uplink = { broker: BROKER, ...table.uplink };
    writeFileSync(join(root, "etc/headwater", `${name}.toml`), toml({ ...table, uplink }));
  }
  for (const [path, file] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    copyFileSync(file, join(root, path));
  }
}

/** What an agent that is not static needs: path → file. */
async function libraries() {
  const { stdout } = await promisify(execFile)("readelf", ["-W", "-l", "-d", agent]);
  const names = [...stdout.matchAll(/(?:interpreter: \/lib\/|Shared library: \[)([^\]]+)\]/g)];
  if (names.length === 0) return [];
  assert.ok(
    sysroot,
    "the agent is not static: HEADWATER_SYSROOT names a Debian's root that has its libraries",
  );
  const folders = ["lib", ...readdirSync(join(sysroot, "lib")).map((name) => `lib/${name}`)];
  return names.map(([, name]) => {
    const path = folders.map((folder) => join(folder, name)).find((path) => existsSync(join(sysroot, path)));
    assert.ok(path, `no ${name} in ${sysroot}`);
    return [path, join(sysroot, path)];
  });
}

async function format(image, mebibytes, options) {
  writeFileSync(image, "");
  truncateSync(image, mebibytes * 1024 * 1024);
  await tool("mkfs.ext4", ["-q", "-F", ...options, image]);
}

/** Runs a tool of the file system's; fails with what it printed if it ends with another code than `codes`. */
async function tool(command, args, codes = [0]) {
  const env = { ...process.env, PATH };
  const ended = promisify(execFile)(command, args, { env, maxBuffer: 2 ** 26 });
  const { code = 0, stdout, stderr, message } = await ended.catch((error) => error);
  assert.ok(codes.includes(code), `${command} ${args.join(" ")}: ${code}, ${message}\n${stdout}${stderr}`);
}
