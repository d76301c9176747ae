/** Programs that came by updates, looked at from outside: after the layout at the top of agent/src/update/slots.rs, by code of the tests' own. */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { crc32c } from "./journal.js";

const BLOCK = 4096;

/** A state's text: { current, next, have, trial, updated }; `undefined` if it is not whole. */
function parsed(text) {
  const end = text.lastIndexOf("sum ");
  const body = text.slice(0, end);
  if (end < 0 || Number.parseInt(text.slice(end + 4), 16) !== crc32c(Buffer.from(body, "latin1"))) return;
  const state = {};
  for (const line of body.split("\n")) {
    const [word, ...words] = line.split(" ");
    if (word === "current" || word === "next") {
      const [slot, version, size, sha256] = words;
      state[word] = { slot, version, size: Number(size), sha256 };
    } else if (word === "have") state.have = Number(words[0]);
    else if (word === "trial") state.trial = { starts: Number(words[0]) };
    else if (word === "updated" || word === "failed") state.last = { word, version: words[0] };
  }
  return state;
}

/** The state that a write to a disk brings, if it brings one. */
export function stateIn(bytes) {
  for (let at = 0; at < bytes?.length; at += BLOCK) {
    const text = bytes.toString("latin1", at, at + BLOCK);
    if (!/^(current|next|updated|failed) /.test(text)) continue;
    const sum = /\nsum [0-9a-f]{8}\n/.exec(text);
    if (sum) return parsed(text.slice(0, sum.index + sum[0].length));
  }
}

/**
 * The state in a folder, which has to be whole, and so have the programs that it says could be started. Of what is on its way so much has to be
 * there as it says: the beginning of `coming`.
 */
export function stateOf(folder, coming) {
  const path = join(folder, "state");
  if (!existsSync(path)) return {};
  const state = parsed(readFileSync(path, "latin1"));
  assert.ok(state, `the state of the slots is not whole: ${readFileSync(path, "latin1")}`);
  for (const program of [state.current, state.trial && state.next]) {
    if (!program) continue;
    const file = join(folder, program.slot);
    const sum = createHash("sha256").update(readFileSync(file)).digest("hex");
    assert.equal(sum, program.sha256, `what is in slot ${program.slot}, ${program.version}`);
    assert.ok((statSync(file).mode & 0o111) !== 0, `${program.version} cannot be started`);
  }
  if (state.next && !state.trial && state.have > 0) {
    const here = readFileSync(join(folder, state.next.slot)).subarray(0, state.have);
    assert.ok(
      here.equals(coming.subarray(0, state.have)),
      `of ${state.next.version} there are not ${state.have} bytes`,
    );
  }
  return state;
}

/** How far an update to this version is: the greater, the later. Below 1 it is downloaded; 2 is a trial, 3 one that was started; 4: it is over. */
export function progress({ current, next, have, trial, last }, version) {
  if (next?.version === version) return trial ? 2 + Math.min(trial.starts, 1) : have / next.size;
  if (last?.version !== version) return -1;
  return last.word === "failed" || current?.version === version ? 4 : -1;
}
