import { createHmac } from "node:crypto";

/** A JWT signed with HS256 by a secret (a Buffer or string). `claims` as they stand; `exp` in seconds. */
export function token(secret, claims, header = { alg: "HS256", typ: "JWT" }) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const signed = `${part(header)}.${part(claims)}`;
  return `${signed}.${createHmac("sha256", secret).update(signed).digest("base64url")}`;
}
