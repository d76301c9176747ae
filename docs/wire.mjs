// Writes the tables of docs/wire.md from the .proto files and their comments; with --check it only tells whether they are what they should be.
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { fromBinary, isFieldSet } from "@bufbuild/protobuf";
import {
  FieldDescriptorProtoSchema,
  FileDescriptorSetSchema,
  FieldDescriptorProto_Label as Label,
  FieldDescriptorProto_Type as Type,
} from "@bufbuild/protobuf/wkt";

const at = (path) => fileURLToPath(new URL(path, import.meta.url));
const image = execFileSync(
  at("../node_modules/.bin/buf"),
  ["build", at("../proto/proto"), "--as-file-descriptor-set", "-o", "-#format=binpb"],
  { maxBuffer: 1 << 24 },
);
const files = fromBinary(FileDescriptorSetSchema, image).file.filter((file) =>
  file.name.startsWith("headwater/"),
);

/** What stands above something, by its path in the descriptor. */
function commentsOf(file) {
  const known = new Map(file.sourceCodeInfo.location.map((place) => [place.path.join("."), place]));
  return (path) => (known.get(path.join("."))?.leadingComments ?? "").replace(/^ /gm, "").replace(/\s+$/, "");
}

/** A comment as it stands in a sentence or a cell: its line ends are the source's, and what looks like a mark is none. */
const flowing = (comment) => escaped(comment.replace(/\s*\n\s*/g, " "));
const escaped = (text) =>
  text
    .split(/(`[^`]*`)/)
    .map((part) => (part.startsWith("`") ? part : part.replace(/[|<>*_]/g, (mark) => `\\${mark}`)))
    .join("");

function typeOf(field) {
  const name = field.typeName ? link(field.typeName) : `\`${Type[field.type].toLowerCase()}\``;
  return field.label === Label.REPEATED ? `${name} …` : name;
}

function link(typeName) {
  const name = typeName.split(".").pop();
  return `[\`${name}\`](#${name.toLowerCase()})`;
}

function messageOf(message, path, comment) {
  const rows = message.field.map((field, index) => {
    const one = isFieldSet(field, FieldDescriptorProtoSchema.field.oneofIndex) && !field.proto3Optional;
    const kind = one ? ` (one of \`${message.oneofDecl[field.oneofIndex].name}\`)` : "";
    return `| ${field.number} | \`${field.name}\` | ${typeOf(field)}${kind} | ${flowing(comment([...path, 2, index]))} |`;
  });
  const table = ["| number | field | type | |", "|---|---|---|---|", ...rows].join("\n");
  return [`### ${message.name}`, flowing(comment(path)), rows.length > 0 ? table : "It has no fields."];
}

function enumOf(kind, path, comment) {
  const rows = kind.value.map(
    (value, index) => `| ${value.number} | \`${value.name}\` | ${flowing(comment([...path, 2, index]))} |`,
  );
  return [
    `### ${kind.name}`,
    flowing(comment(path)),
    ["| number | value | |", "|---|---|---|", ...rows].join("\n"),
  ];
}

/** All of a file in the order of its source. */
function reference(file) {
  const comment = commentsOf(file);
  const line = new Map(file.sourceCodeInfo.location.map(({ path, span }) => [path.join("."), span[0]]));
  const parts = [
    ...file.messageType.map((message, index) => ({ path: [4, index], of: messageOf, what: message })),
    ...file.enumType.map((kind, index) => ({ path: [5, index], of: enumOf, what: kind })),
  ].sort((a, b) => line.get(a.path.join(".")) - line.get(b.path.join(".")));
  const head = ["```text", comment([12]), "```"].join("\n");
  const body = parts.flatMap(({ path, of, what }) => of(what, path, comment)).filter(Boolean);
  return [head, ...body].join("\n\n");
}

const page = at("wire.md");
const now = readFileSync(page, "utf8");
const made = files.reduce((text, file) => {
  const name = file.name.split("/").pop();
  const part = new RegExp(`(<!-- made: ${name} -->\n)[^]*?(<!-- end -->)`);
  if (!part.test(text)) throw new Error(`docs/wire.md has no place for ${name}`);
  return text.replace(part, (_, begin, end) => `${begin}\n${reference(file)}\n\n${end}`);
}, now);
if (!process.argv.includes("--check")) writeFileSync(page, made);
else if (made !== now) {
  console.error("docs/wire.md is stale: node docs/wire.mjs");
  process.exit(1);
}
