/** `node write.js TARGET FILE`: makes of FILE a program that is TARGET's agent under qemu. HEADWATER_BIN: as in ../e2e/harness/site.js. */

import { writeFileSync } from "node:fs";
import { script } from "./emulated.js";

const [target, file] = process.argv.slice(2);
writeFileSync(file, script(target), { mode: 0o755 });
