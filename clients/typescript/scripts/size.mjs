// What the client adds to a page: bundled alone, minified, gzipped. Fails where the README says something else.
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build } from "vite";

const home = join(dirname(fileURLToPath(import.meta.url)), "..");
const result = await build({
  root: home,
  configFile: false,
  logLevel: "warn",
  build: {
    write: false,
    minify: true,
    target: "es2022",
    lib: { entry: join(home, "src", "index.ts"), formats: ["es"], fileName: "client" },
  },
});
const { code } = result[0].output[0];
const gzipped = gzipSync(code, { level: 9 }).length;
console.log(`${code.length} bytes minified, ${gzipped} gzipped`);
const said = /([\d.]+) kB gzipped/.exec(readFileSync(join(home, "README.md"), "utf8"))?.[1];
if (Math.abs(Number(said) * 1000 - gzipped) > 200) {
  console.error(`README.md says ${said} kB`);
  process.exitCode = 1;
}
