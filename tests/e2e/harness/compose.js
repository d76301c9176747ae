/**
 * Services of deploy/compose/compose.yml without a container engine: the image's root, what is mounted where and whether it can be written,
 * user and command, by namespaces. What is left out: networks, limits, capabilities.
 */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { python, repository } from "./site.js";

const folder = join(repository, "deploy/compose");
// Nobody else can become another user, or keep what is mounted from being written.
const isRoot = process.getuid() === 0;

/** ROOT USER OWN [SOURCE TARGET MODE]… -- COMMAND…, in a mount namespace of its own. */
const CONTAINER = `
set -eu
root=$1 user=$2 own=$3
shift 3
[ "$root" = / ] || mount --bind "$root" "$root"
[ -z "$own" ] || mount -t tmpfs tmpfs "$root$own"
while [ "$1" != -- ]; do
  source=$1 target=$root$2 mode=$3
  shift 3
  if [ -d "$source" ]; then mkdir -p "$target"; else mkdir -p "\${target%/*}"; : >>"$target"; fi
  mount --bind "$source" "$target"
  [ "$mode" = rw ] || mount -o remount,bind,ro "$target"
done
shift
[ -z "$user" ] || mount -o remount,bind,ro "$root"
exec chroot \${user:+"--userspec=$user"} "$root" "$@"
`;

/** What Docker Compose makes of compose.yml. */
function composeModel() {
  const place =
    "import importlib.util, pathlib; print(pathlib.Path(importlib.util.find_spec('compose').origin).parent)";
  const directory = execFileSync(python, ["-c", place], { encoding: "utf8" }).trim();
  const args = ["-f", join(folder, "compose.yml"), "config", "--format", "json"];
  return JSON.parse(execFileSync(join(directory, "docker-compose"), args, { encoding: "utf8" }));
}

/** A service that runs. */
export class Container {
  /**
   * `authority`: what stands for ./authority. `files`: what stands for files that are mounted, by where. `root`, `entrypoint`, `cmd`: the
   * image's. `own`: a directory of the root that is to be the container's own.
   */
  static start(site, name, { authority, files = {}, root, entrypoint = [], cmd = [], own = "" }) {
    const service = composeModel().services[name];
    const user = isRoot ? service.user : "";
    const mounts = service.volumes.map(({ source, target, read_only }) => {
      const place = files[target] ?? source.replace(join(folder, "authority"), authority);
      return [place, target, read_only && isRoot ? "ro" : "rw"];
    });
    for (const target of Object.keys(files)) {
      assert.ok(
        mounts.some((mount) => mount[1] === target),
        `${name} mounts ${target}`,
      );
    }
    const unshare = isRoot ? ["--mount"] : ["--mount", "--map-root-user"];
    const setup = ["bash", "-c", CONTAINER, name, root, user, own, ...mounts.flat(), "--"];
    const command = [...entrypoint, ...(service.command ?? cmd)];
    const container = new Container();
    container.user = user;
    container.program = site.start(name, "unshare", [...unshare, ...setup, ...command]);
    return container;
  }

  /** As `docker compose exec -T` does it: what the command prints; throws what it says where it fails. */
  exec(command, input = "") {
    const [uid, gid] = this.user.split(":");
    const as = isRoot ? ["--setuid", uid, "--setgid", gid] : ["--user", "--preserve-credentials"];
    const place = ["--target", String(this.program.pid), "--mount", "--root", "--wdns=/"];
    return execFileSync("nsenter", [...place, ...as, ...command], { input, stdio: ["pipe", "pipe", "pipe"] });
  }
}
