/**
 * The globs of subscriptions: `*` any run, `?` one character, `[a-z]` and `[!a-z]` one of a set, `{a,b}` one of
 * several. Anything else stands for itself.
 */

/** A test for names; an empty list of globs takes every name. */
export function matcher(globs: readonly string[]): (name: string) => boolean {
  if (globs.length === 0) return () => true;
  const pattern = new RegExp(`^(?:${globs.map(source).join("|")})$`, "su");
  const seen = new Map<string, boolean>();
  return (name) => {
    let is = seen.get(name);
    if (is === undefined) {
      is = pattern.test(name);
      // Bounded: a fleet's names are few, hostile ones need not be.
      if (seen.size >= 10_000) seen.clear();
      seen.set(name, is);
    }
    return is;
  };
}

function source(glob: string): string {
  let out = "";
  let depth = 0;
  const characters = [...glob];
  for (let i = 0; i < characters.length; i++) {
    const c = characters[i];
    if (c === "*") out += ".*";
    else if (c === "?") out += ".";
    else if (c === "{") {
      out += "(?:";
      depth++;
    } else if (c === "}" && depth > 0) {
      out += ")";
      depth--;
    } else if (c === "," && depth > 0) out += "|";
    else if (c === "[") {
      const not = characters[i + 1] === "!" || characters[i + 1] === "^";
      const begin = i + (not ? 2 : 1);
      // A ] that stands first is one of the set.
      const end = characters.indexOf("]", begin + 1);
      if (end < 0) throw new RangeError(`glob ${JSON.stringify(glob)}: [ without ]`);
      const set = characters.slice(begin, end).join("");
      out += `[${not ? "^" : ""}${set.replace(/[\\\][^]/g, "\\$&")}]`;
      i = end;
    } else if (c === "\\" && i + 1 < characters.length) out += literal(characters[++i]);
    else out += literal(c);
  }
  if (depth > 0) throw new RangeError(`glob ${JSON.stringify(glob)}: { without }`);
  return out;
}

function literal(c: string): string {
  return /[\\^$.*+?()[\]{}|/]/.test(c) ? `\\${c}` : c;
}
