import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { chmodSync, createReadStream, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { basename, join } from "node:path";
import { binaries } from "./site.js";

/** A server of releases, with ranges and entity tags, and a key that they are signed with. */
export class Releases {
  /** Requests so far, and bytes sent. */
  requests = [];
  sent = 0;
  /** Connections are broken after so many bytes of a body, so many times. */
  breaks = { after: Infinity, times: 0 };

  static async start(site) {
    const releases = new Releases(site);
    await new Promise((resolve) => releases.server.listen(0, "127.0.0.1", resolve));
    releases.url = `http://127.0.0.1:${releases.server.address().port}`;
    site.onClose(() => {
      releases.server.closeAllConnections();
      return new Promise((resolve) => releases.server.close(resolve));
    });
    return releases;
  }

  constructor(site) {
    this.site = site;
    this.folder = site.path("releases");
    mkdirSync(this.folder);
    this.key = site.path("signing.pem");
    execFileSync("openssl", ["genpkey", "-algorithm", "ed25519", "-out", this.key]);
    this.public = this.relay("key", this.key).trim();
    this.server = createServer((request, response) => this.#serve(request, response));
  }

  /** `headwater-relay release …`. */
  relay(...args) {
    return execFileSync(join(binaries, "headwater-relay"), ["release", ...args], { encoding: "utf8" });
  }

  /** A release that is this file: what `fleet update` is told of it. */
  make(version, target, path) {
    const manifest = this.#manifest(version, path);
    this.relay("manifest", "--version", version, "--output", manifest, `${target}=${path}`);
    return this.#sign(version, manifest, this.key);
  }

  /** As somebody signs who looks at nothing: whatever the file is, and whichever version it says that it is. */
  claim(version, target, path, { key = this.key } = {}) {
    const manifest = this.#manifest(version, path);
    const content = readFileSync(path);
    const sha256 = createHash("sha256").update(content).digest("hex");
    const files = { [target]: { name: basename(path), size: content.length, sha256 } };
    writeFileSync(manifest, JSON.stringify({ headwater: "agent", version, files }));
    return this.#sign(version, manifest, key);
  }

  #manifest(version, path) {
    return join(this.folder, `${basename(path)}-${version}.json`);
  }

  #sign(version, manifest, key) {
    this.relay("sign", "--key", key, manifest);
    return { version, manifest, url: this.url };
  }

  /** A script in the place of a program. */
  script(name, text) {
    const path = join(this.folder, name);
    writeFileSync(path, `#!/bin/sh\n${text}\n`);
    chmodSync(path, 0o755);
    return path;
  }

  #serve(request, response) {
    const path = join(this.folder, basename(request.url));
    const size = statSync(path).size;
    const tag = `"${size}"`;
    const [, first] = /^bytes=(\d+)-$/.exec(request.headers.range ?? "") ?? [];
    const from = first !== undefined && (request.headers["if-range"] ?? tag) === tag ? Number(first) : 0;
    this.requests.push({ path: request.url, from });
    assert.ok(from < size, "nothing is asked for that is not there");
    response.writeHead(from > 0 ? 206 : 200, {
      ETag: tag,
      "Content-Length": size - from,
      ...(from > 0 && { "Content-Range": `bytes ${from}-${size - 1}/${size}` }),
    });
    const broken = this.breaks.times-- > 0;
    let left = broken ? this.breaks.after : Infinity;
    createReadStream(path, { start: from, highWaterMark: 32 * 1024 })
      .on("data", (chunk) => {
        this.sent += chunk.length;
        response.write(chunk);
        left -= chunk.length;
        if (left <= 0) response.destroy();
      })
      .on("end", () => response.end());
  }
}
