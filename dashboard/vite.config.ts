import { fileURLToPath } from "node:url";
import { defineConfig, type Plugin } from "vite";

/** Forbids in the built page what it does not need. Not in development, where Vite injects styles. */
const policy: Plugin = {
  name: "content-security-policy",
  apply: "build",
  transformIndexHtml: () => [
    {
      tag: "meta",
      attrs: {
        "http-equiv": "Content-Security-Policy",
        content:
          "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; object-src 'none'; base-uri 'none'",
      },
      injectTo: "head-prepend",
    },
  ],
};

/** A relay to develop against: RELAY=host:port npm run dev. */
const relay = process.env.RELAY ?? "127.0.0.1:8080";

export default defineConfig({
  base: "./",
  plugins: [policy],
  resolve: {
    alias: {
      "@headwater/client": fileURLToPath(new URL("../clients/typescript/src/index.ts", import.meta.url)),
    },
  },
  build: {
    target: "es2022",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rollupOptions: {
      // Plain names: the relay serves these few files with an ETag, and a rebuild changes them in place.
      output: {
        entryFileNames: "app.js",
        chunkFileNames: "[name].js",
        assetFileNames: "[name][extname]",
      },
    },
  },
  server: {
    proxy: {
      "/v1": { target: `http://${relay}`, ws: true },
      "/demo": { target: `http://${relay}` },
    },
  },
});
