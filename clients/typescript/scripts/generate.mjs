// Writes test/gen from the .proto files; with --check it only tells whether what is committed is what they give.
import { execFileSync } from "node:child_process";
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const home = join(dirname(fileURLToPath(import.meta.url)), "..");
const root = join(home, "..", "..");
const protos = join(root, "proto", "proto");
const committed = join(home, "test", "gen");
const bin = join(root, "node_modules", ".bin");

const fresh = mkdtempSync(join(tmpdir(), "headwater-gen-"));
const template = JSON.stringify({
  version: "v2",
  plugins: [{ local: join(bin, "protoc-gen-es"), out: fresh, opt: ["target=ts", "import_extension=js"] }],
});

/** The files under a folder, by their path in it. */
function files(folder) {
  const found = new Map();
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    found.set(relative(folder, path), readFileSync(path, "utf8"));
  }
  return found;
}

try {
  execFileSync(join(bin, "buf"), ["generate", protos, "--template", template], {
    stdio: "inherit",
    cwd: fresh,
  });
  if (process.argv.includes("--check")) {
    const [was, is] = [files(committed), files(fresh)];
    const differ = [...new Set([...was.keys(), ...is.keys()])].filter(
      (path) => was.get(path) !== is.get(path),
    );
    if (differ.length > 0) {
      console.error(
        `test/gen is not what proto/proto gives: ${differ.join(", ")}\nrun: npm run generate -w @headwater/client`,
      );
      process.exitCode = 1;
    } else {
      console.log(`test/gen is up to date (${is.size} files)`);
    }
  } else {
    rmSync(committed, { recursive: true, force: true });
    cpSync(fresh, committed, { recursive: true });
  }
} finally {
  rmSync(fresh, { recursive: true, force: true });
}
