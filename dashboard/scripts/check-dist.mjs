// Builds the page anew and compares it with the committed dashboard/dist: fails when that is stale.
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "vite";

const home = join(dirname(fileURLToPath(import.meta.url)), "..");

/** The files under a folder, by their path in it. */
function files(folder) {
  const found = new Map();
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    found.set(relative(folder, path), readFileSync(path));
  }
  return found;
}

const fresh = mkdtempSync(join(tmpdir(), "headwater-dist-"));
try {
  await build({ root: home, logLevel: "warn", build: { outDir: fresh, emptyOutDir: true } });
  const [was, is] = [files(join(home, "dist")), files(fresh)];
  const differ = [...new Set([...was.keys(), ...is.keys()])].filter(
    (path) => !was.get(path) || !is.get(path) || Buffer.compare(was.get(path), is.get(path)) !== 0,
  );
  if (differ.length > 0) {
    console.error(
      `dashboard/dist is stale: ${differ.join(", ")}\nrun: npm run build -w @headwater/dashboard, and commit it`,
    );
    process.exitCode = 1;
  } else {
    console.log(`dashboard/dist is up to date (${is.size} files)`);
  }
} finally {
  rmSync(fresh, { recursive: true, force: true });
}
