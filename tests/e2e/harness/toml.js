/** Plain objects as TOML: tables, arrays of tables, strings, numbers, booleans and arrays of those. */
export function toml(table, path = []) {
  const entries = Object.entries(table).filter(([, value]) => value !== undefined);
  const lines = [];
  for (const [key, value] of entries) {
    if (!isTable(value) && !isTables(value)) lines.push(`${JSON.stringify(key)} = ${JSON.stringify(value)}`);
  }
  for (const [key, value] of entries) {
    const name = [...path, key];
    const header = name.map((part) => JSON.stringify(part)).join(".");
    if (isTable(value)) lines.push(`[${header}]`, toml(value, name));
    if (isTables(value)) for (const entry of value) lines.push(`[[${header}]]`, toml(entry, name));
  }
  return `${lines.join("\n")}\n`;
}

function isTable(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isTables(value) {
  return Array.isArray(value) && value.length > 0 && value.every(isTable);
}
