import { execFileSync } from "node:child_process";
import { join } from "node:path";

const run = (args, options) =>
  execFileSync("openssl", args, { stdio: ["ignore", "ignore", "pipe"], ...options });
const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];

/** An authority whose certificates are files of the site, made by openssl. */
export class Authority {
  constructor(site, name) {
    Object.assign(this, { site, name });
    this.cert = site.path(`${name}.pem`);
    this.key = site.path(`${name}.key`);
    run([
      "req",
      "-x509",
      ...key,
      "-days",
      "30",
      "-subj",
      `/CN=${name}`,
      "-keyout",
      this.key,
      "-out",
      this.cert,
    ]);
  }

  /** A certificate for a server at 127.0.0.1, or for a client of that name. Of a name issued before, it renews the files. */
  issue(name) {
    const [cert, keyFile] = [`${name}.crt`, `${name}.key`].map((file) => this.site.path(file));
    const request = join(this.site.directory, `${name}.csr`);
    run(["req", ...key, "-subj", `/CN=${name}`, "-keyout", keyFile, "-out", request]);
    const extensions = this.site.write(`${name}.ext`, "subjectAltName = IP:127.0.0.1\n");
    run([
      ...["x509", "-req", "-in", request, "-CA", this.cert, "-CAkey", this.key, "-CAcreateserial"],
      ...["-days", "30", "-extfile", extensions, "-out", cert],
    ]);
    return { cert, key: keyFile };
  }
}
