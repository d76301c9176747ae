/** The pages: what stands in them, and a box of their own in which their commands are carried out as they stand. */

import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { binaries, python, repository } from "./site.js";

/** Every Markdown file that the repository holds. */
export function pages() {
  const listed = execFileSync("git", ["ls-files", "-co", "--exclude-standard", "*.md"], {
    cwd: repository,
    encoding: "utf8",
  });
  return listed.split("\n").filter(Boolean).sort();
}

export function text(page) {
  return readFileSync(join(repository, page), "utf8");
}

/**
 * The fenced blocks of a page, and what is hidden in comments `<!-- test … -->`, in order:
 * { line, language, words, body }. A hidden block's language is "sh", and it is run.
 */
export function blocks(page) {
  const found = [];
  let open = null;
  text(page)
    .split("\n")
    .forEach((line, index) => {
      const begin = /^\s*```(\w*) ?(.*)$/.exec(line) ?? /^<!-- (test)( background)?$/.exec(line);
      if (open) {
        if (open.end.test(line)) {
          found.push({ ...open, body: open.body.join("\n") });
          open = null;
        } else open.body.push(line.startsWith(open.indent) ? line.slice(open.indent.length) : line);
      } else if (begin) {
        const hidden = begin[1] === "test";
        open = {
          page,
          line: index + 1,
          language: hidden ? "sh" : begin[1],
          words: hidden ? ["test", ...(begin[2] ? ["background"] : [])] : begin[2].split(" ").filter(Boolean),
          indent: /^\s*/.exec(line)[0],
          end: hidden ? /^-->$/ : /^\s*```$/,
          body: [],
        };
      }
    });
  if (open) throw new Error(`${page}:${open.line}: a block without an end`);
  return found;
}

/** Whether a time daemon keeps this machine's clock: in no box can that be otherwise. */
function isSynchronised() {
  const ask = "import ctypes; print(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512)))";
  const timeError = 5;
  return Number(execFileSync(python, ["-c", ask], { encoding: "utf8" })) !== timeError;
}

/** What a program printed, as a page shows it: `…` is anything in a line, a line of nothing else any lines; columns may be as wide as they like. */
export function shows(expected, printed) {
  const quoted = (part) => part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&").replace(/ +/g, " +");
  const line = (part) =>
    part.trim() === "…" ? "(?:.*\n)*?" : `${part.trim().split("…").map(quoted).join(".*")}\n`;
  const lines = expected.trim().split("\n").map(line).join("[ \t]*");
  return new RegExp(lines).test(`${printed}\n`.replace(/[ \t]+$/gm, ""));
}

/**
 * Carries out all of a page that can be, in a box of its own: namespaces of its own for the network, for what is mounted, for its name and for
 * processes, with a /sys, /run, /srv, /dev, /usr, /var/lib and /etc of its own; so a page's ports and paths are what the page says, and whatever it starts ends
 * with it. `page.sh` makes the box. Returns [{ block, printed }] of the blocks that were run; the first that fails is an error.
 */
export async function follow(site, page) {
  const steps = [];
  const lines = [`source ${join(repository, "tests/e2e/harness/page.sh")}`];
  const all = blocks(page);
  for (const [number, block] of all.entries()) {
    const file = /^(?:agent|relay|file)=(\S+)$/.exec(block.words[0] ?? "")?.[1];
    const body = site.write(`block-${number}`, `${block.body}\n`);
    if (file) lines.push(`put ${file} ${body}`);
    if (block.language !== "sh" || block.words[0] !== "test") continue;
    if (block.words.includes("unsynchronised") && isSynchronised()) continue;
    const printed = site.path(`printed-${number}`);
    const how = block.words[1] ?? "once";
    const shown = all[number + 1]?.words[0] === "output" ? all[number + 1].body.trim().split("\n").length : 1;
    lines.push(`step ${how} ${body} ${printed} ${page}:${block.line} ${shown}`);
    steps.push({ block, printed });
  }
  const script = site.write("page.bash", `${lines.join("\n")}\n`);
  if (process.getuid() !== 0)
    throw new Error("a page's box has mounts and a network of its own: run this as root");
  const space = ["--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"];
  const program = site.start("page", "unshare", [...space, "bash", script], {
    env: { BOX: site.directory, PROGRAMS: binaries, PYTHON: python, REPOSITORY: repository },
  });
  const { code } = await program.exit;
  if (code !== 0)
    throw new Error(`${page} cannot be followed:\n${program.log().split("\n").slice(-30).join("\n")}`);
  return steps.map((step) => ({ ...step, printed: readFileSync(step.printed, "utf8") }));
}
