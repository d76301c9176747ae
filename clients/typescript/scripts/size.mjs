// What the client adds to a page: bundled alone, minified, gzipped.
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
console.log(`${code.length} bytes minified, ${gzipSync(code, { level: 9 }).length} gzipped`);
