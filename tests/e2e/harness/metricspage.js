/** docs/metrics.md: its tables are made of what the programs say of their metrics. */

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { repository } from "./site.js";

const file = join(repository, "docs/metrics.md");

/** A table of all that an exposition names. Labels show with the first sample, which may never have come: then those of the page so far stay. */
function table(exposition, before) {
  const help = new Map(
    Array.from(exposition.matchAll(/^# HELP (\S+) (.+)$/gm), ([, name, text]) => [name, text]),
  );
  const rows = Array.from(exposition.matchAll(/^# TYPE (\S+) (\S+)$/gm), ([, name, kind]) => {
    const labels = new Set(
      Array.from(exposition.matchAll(new RegExp(`^${name}(?:_bucket)?\\{(.*?)\\} `, "gm")))
        .flatMap(([, pairs]) => Array.from(pairs.matchAll(/(\w+)="/g), ([, label]) => label))
        .filter((label) => label !== "le"),
    );
    const sampled = new RegExp(`^${name}(?:_bucket)?[{ ]`, "m").test(exposition);
    const said = new RegExp(`^\\| \`${name}\` \\| ${kind}( by [^|]+)? \\|`, "m").exec(before)?.[1] ?? "";
    const by = sampled ? (labels.size > 0 ? ` by ${[...labels].sort().join(", ")}` : "") : said;
    return `| \`${name}\` | ${kind}${by} | ${help.get(name)} |`;
  });
  return ["| metric | kind | what it is |", "|---|---|---|", ...rows.sort()].join("\n");
}

/** The page with the tables of these expositions in their places, { title: exposition }; `now` is what it is. */
export function metricsPage(expositions) {
  const now = readFileSync(file, "utf8");
  const made = Object.entries(expositions).reduce((text, [title, exposition]) => {
    const part = new RegExp(`(<!-- made: ${title} -->\n)[^]*?(<!-- end -->)`);
    if (!part.test(text)) throw new Error(`docs/metrics.md has no place for ${title}`);
    return text.replace(part, (_, begin, end) => `${begin}${table(exposition, now)}\n${end}`);
  }, now);
  if (process.env.HEADWATER_WRITE_PAGES) writeFileSync(file, made);
  return { now: process.env.HEADWATER_WRITE_PAGES ? made : now, made };
}
