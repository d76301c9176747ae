/** The pages of docs/ are followed as they stand: their files are written, their commands run, and what they show is compared. */

import assert from "node:assert/strict";
import { blocks, follow, pages, shows } from "./harness/pages.js";
import { scenario } from "./harness/site.js";

/** Each with the outputs that the page shows after it. */
function promised(page) {
  const shown = new Map();
  let last = null;
  for (const block of blocks(page)) {
    if (block.language === "sh") last = block.words[0] === "test" ? block.line : null;
    if (block.language !== "text" || block.words[0] !== "output") continue;
    assert.ok(last, `${page}:${block.line}: an output of nothing that is run`);
    shown.set(last, [...(shown.get(last) ?? []), block]);
  }
  return shown;
}

for (const page of pages()) {
  if (!blocks(page).some((block) => block.language === "sh" && block.words[0] === "test")) continue;
  scenario(
    `${page} can be followed`,
    async (site) => {
      const expected = promised(page);
      for (const { block, printed } of await follow(site, page)) {
        for (const output of expected.get(block.line) ?? [])
          assert.ok(
            shows(output.body, printed),
            `${page}:${output.line} shows\n${output.body}\nand it was\n${printed}`,
          );
      }
    },
    { limit: 300_000 },
  );
}
