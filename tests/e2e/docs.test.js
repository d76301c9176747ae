/** The pages, README.md and deploy/README.md among them, are followed as they stand: their files are written, their commands run, and what they show is compared. */

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { describe } from "node:test";
import { blocks, follow, pages, shows, text } from "./harness/pages.js";
import { binaries, scenario } from "./harness/site.js";

/** Each block that is run, by its line, with the outputs that the page shows after it. */
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

// Each is for itself, and waits most of the time.
describe("pages", { concurrency: 3 }, () => {
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
      { limit: 600_000 },
    );
  }
});

const run = (program, args) => spawnSync(join(binaries, program), args, { encoding: "utf8" });

scenario("settings on pages are the programs'", async (site) => {
  let count = 0;
  for (const page of pages()) {
    for (const { language, words, body, line } of blocks(page)) {
      const whose = /^(agent|relay)(?:=|$)/.exec(words[0] ?? "")?.[1];
      // What names files that only the page's own commands make is checked by these.
      if (language !== "toml" || !whose || words[0].startsWith("relay=")) continue;
      count += 1;
      const place = `${page}:${line}`;
      if (whose === "relay") {
        const { status, stderr } = run("headwater-relay", [
          "check",
          "--config",
          site.write("relay.toml", body),
        ]);
        assert.equal(status, 0, `${place}: ${stderr}`);
        continue;
      }
      const name = /^device = /m.test(body) ? "" : 'device = "gw-01"\n';
      const source = body.includes("[[source]]") ? "" : '\n[[source]]\ntype = "system"\n';
      const config = site.write("agent.toml", `${name}${body}\n${source}`);
      // It reads the settings, and then finds no agent.
      const { status, stderr } = run("headwater-agent", ["status", "--config", config]);
      assert.equal(status, 1, `${place}: ${stderr}`);
    }
  }
  assert.ok(count > 8, `${count} blocks`);
});

/** Commands of ours in a page: what stands in blocks of commands, and in code within prose. */
function* commands(page) {
  const inBlocks = blocks(page).filter((block) => block.language === "sh");
  const prose = text(page)
    .replace(/^<!--[\s\S]*?^-->$/gm, "")
    .replace(/^\s*```[\s\S]*?^\s*```$/gm, "");
  const pieces = [
    ...inBlocks.map((block) => block.body.replaceAll("\\\n", " ")),
    ...(prose.match(/`[^`\n]+`/g) ?? []),
  ];
  for (const piece of pieces)
    for (const [, program, rest] of piece.matchAll(
      /(?<![\w/-]|-[pu] )headwater-(agent|relay)((?: (?:'[^'\n]*'|"[^"\n]*"|[^\s`|;&<>()]+))+)/g,
    ))
      yield { program, words: rest.trim().split(/ +(?=(?:[^']*'[^']*')*[^']*$)/) };
}

scenario("commands and options that pages name are the programs'", async () => {
  const helps = new Map();
  const help = (args) => {
    const key = args.join(" ");
    if (!helps.has(key)) helps.set(key, run(args[0], [...args.slice(1), "--help"]));
    return helps.get(key);
  };
  let count = 0;
  for (const page of pages()) {
    for (const { program, words } of commands(page)) {
      const name = `headwater-${program}`;
      const place = `${page}: ${name} ${words.join(" ")}`;
      const options = words.filter((word) => /^--[a-z]/.test(word)).map((word) => word.split("=")[0]);
      const [command, more] = words;
      if (!/^(--)?[a-z][a-z-]*$/.test(command)) continue;
      count += 1;
      if (program === "agent") {
        const { stdout } = help([name]);
        const known = (word) => new RegExp(`(^|[\\s|\\[(])${word}([\\s|\\])]|$)`, "m").test(stdout);
        for (const word of [command, ...options]) assert.ok(known(word), `${place}: there is no ${word}`);
        continue;
      }
      if (command.startsWith("--")) continue;
      const nested = { deadletter: true, fleet: true, release: true }[command] && /^[a-z]+$/.test(more ?? "");
      const { status, stdout } = help([name, command, ...(nested ? [more] : [])]);
      assert.equal(status, 0, `${place}: there is no such command`);
      for (const option of options)
        assert.ok(stdout.includes(option), `${place}: there is no option ${option}`);
    }
  }
  assert.ok(count > 40, `${count} commands`);
});
