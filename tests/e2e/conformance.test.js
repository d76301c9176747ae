/**
 * The WebSocket layer under the Autobahn test suite's own cases (by kosoku, which runs them on today's Python): sections 1 to 7 in full, and of each group
 * of 12 and 13 (permessage-deflate) the first, in an echo server made of the gateway's handshake, shim, inflater and deflater. Sections 12 and 13 in full
 * take minutes: see CONTRIBUTING.md.
 */

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { startEcho } from "./harness/echo.js";
import { python, scenario } from "./harness/site.js";

const run = promisify(execFile);
const SECTIONS = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "12.*.1", "13.*.1"];
// Offers of a window of 9 bits alone are declined: frames are compressed once for all, with 12.
const DECLINED = /^13\.[35]\./;

scenario(
  "Autobahn's cases",
  async (site) => {
    const address = await startEcho(site);
    const reports = site.path("reports");
    const include = SECTIONS.flatMap((section) => ["-i", section]);
    // Its exit code counts declined offers as failures; the reports tell more.
    await run(join(dirname(python), "kosoku"), ["-p", "4", ...include, "-o", reports, address]).catch(
      () => {},
    );
    const results = readdirSync(reports)
      .filter((name) => /_case_.*\.json$/.test(name))
      .map((name) => JSON.parse(readFileSync(join(reports, name), "utf8")));
    const failed = results.filter(({ id, behavior, behaviorClose }) => {
      const expected = DECLINED.test(id) ? ["UNIMPLEMENTED"] : ["OK", "NON-STRICT", "INFORMATIONAL"];
      return !expected.includes(behavior) || !["OK", "INFORMATIONAL"].includes(behaviorClose);
    });
    assert.deepEqual(
      failed.map(({ id, behavior, behaviorClose }) => `${id} ${behavior} ${behaviorClose}`),
      [],
    );
    const of = (section) => results.filter(({ id }) => id.startsWith(`${section}.`)).length;
    assert.deepEqual([1, 2, 3, 4, 5, 6, 7, 12, 13].map(of), [16, 11, 7, 10, 20, 145, 37, 5, 7]);
  },
  { limit: 240_000 },
);
