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

  /** The one that has these files already. */
  static at(site, name, cert, key) {
    return Object.assign(Object.create(Authority.prototype), { site, name, cert, key });
  }

  /**
   * A certificate for a server at 127.0.0.1, or for a client of that name. Of a name issued before, it renews the files. `subject`: the
   * common name, where a file cannot be called so. `days`: how long it is good, or was, if negative.
   */
  issue(name, { subject = name, days = 30 } = {}) {
    const [cert, keyFile] = [`${name}.crt`, `${name}.key`].map((file) => this.site.path(file));
    const request = join(this.site.directory, `${name}.csr`);
    const subjectName = `/CN=${subject.replaceAll("/", "\\/")}`;
    run(["req", "-new", ...key, "-subj", subjectName, "-keyout", keyFile, "-out", request]);
    const extensions = this.site.write(`${name}.ext`, "subjectAltName = IP:127.0.0.1\n");
    run([
      ...["x509", "-req", "-in", request, "-CA", this.cert, "-CAkey", this.key, "-CAcreateserial"],
      ...["-days", String(days), "-extfile", extensions, "-out", cert],
    ]);
    return { cert, key: keyFile };
  }
}
