import { readFileSync } from "node:fs";

/** A CSV trace as bench/data/README.md describes it, and the readings that it stands for. */
export class Trace {
  static read(path) {
    return new Trace(path, readFileSync(path, "utf8"));
  }

  /** Rows `from`..`to` of the trace, as a trace of its own in the site. */
  slice(site, name, from, to) {
    const [head, ...rows] = this.text.trimEnd().split(/\r?\n/);
    const text = `${[head, ...rows.slice(from, to)].join("\n")}\n`;
    return new Trace(site.write(name, text), text);
  }

  constructor(path, text) {
    this.path = path;
    this.text = text;
    const [head, ...rows] = text.trimEnd().split(/\r?\n/);
    const names = head.split(",").slice(1);
    /** metric → [[microseconds, bits of the double]], as the Python readers print them. */
    this.readings = Object.fromEntries(names.map((name) => [name, []]));
    for (const row of rows) {
      const [time, ...fields] = row.split(",");
      fields.forEach((field, index) => {
        if (field !== "") this.readings[names[index]].push([`${BigInt(time) * 1000n}`, bits(Number(field))]);
      });
    }
    this.count = Object.values(this.readings).reduce((sum, column) => sum + column.length, 0);
  }
}

/** The 64 bits of a double as hexadecimal digits. */
export function bits(value) {
  const view = new DataView(new ArrayBuffer(8));
  view.setFloat64(0, value);
  return view.getBigUint64(0).toString(16).padStart(16, "0");
}
