import { chmodSync } from "node:fs";
import { join } from "node:path";
import { binaries } from "../e2e/harness/site.js";

/** qemu's user emulation of the oldest processor that a target is for. */
const PROCESSORS = {
  aarch64: ["qemu-aarch64", "cortex-a53"],
  arm: ["qemu-arm", "arm1176"],
  armv7: ["qemu-arm", "cortex-a7"],
  riscv64gc: ["qemu-riscv64", "rv64"],
  x86_64: ["qemu-x86_64", "qemu64"],
};

/** The agent of that target, as `scripts/cross` leaves it. */
export const built = (target) => join(binaries, "..", target, "dist", "headwater-agent");

/** Where a program that is not static finds its libraries: HEADWATER_SYSROOT, a Debian's root directory for its architecture. */
const sysroot = process.env.HEADWATER_SYSROOT ? `-L ${process.env.HEADWATER_SYSROOT} ` : "";

/** A shell script that is this agent under qemu. `emulator`: what of qemu's name follows, as in qemu-arm-static. */
export function script(target, emulator = "-static") {
  const [qemu, processor] = PROCESSORS[target.split("-")[0]];
  return `#!/bin/sh\nexec ${qemu}${emulator} -cpu ${processor} ${sysroot}${built(target)} "$@"\n`;
}

/** The same as a program of the site's. */
export function emulated(site, target, emulator) {
  const program = site.write(`agent-${target}${emulator ?? ""}`, script(target, emulator));
  chmodSync(program, 0o755);
  return program;
}
