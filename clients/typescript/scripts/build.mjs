// Writes dist anew, and puts the licences beside it: what `npm pack` takes.
import { execFileSync } from "node:child_process";
import { copyFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const home = join(dirname(fileURLToPath(import.meta.url)), "..");
const root = join(home, "..", "..");
const compiler = join(
  dirname(createRequire(import.meta.url).resolve("typescript/package.json")),
  "bin",
  "tsc",
);

rmSync(join(home, "dist"), { recursive: true, force: true });
execFileSync(process.execPath, [compiler, "-p", join(home, "tsconfig.build.json")], { stdio: "inherit" });
for (const name of ["LICENSE-MIT", "LICENSE-APACHE"]) copyFileSync(join(root, name), join(home, name));
