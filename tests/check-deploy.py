"""Shows the files of deploy/ to the tools that they are for, as far as those can be had without a container engine or a cluster."""

import importlib.util
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
# The oldest Kubernetes that the manifests are written for, and the newest that there are schemas of.
KUBERNETES = ["1.29", "1.37"]
# What `systemd-analyze security` may say of a unit, in tenths: 0 is nothing exposed, 100 everything.
EXPOSURE = 20
# That of the first boot, which is root's, since the boot partition is.
EXPOSURE_FIRST_BOOT = 22


def run(*command: object) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def tool(name: str) -> pathlib.Path:
    """A program that came with the Python of tests/e2e/python/requirements.txt."""
    return pathlib.Path(sys.executable).parent / name


def container() -> None:
    run(tool("hadolint"), "--failure-threshold", "style", DEPLOY / "container/Dockerfile")


def compose() -> None:
    package = importlib.util.find_spec("compose")
    if package is None or package.origin is None:
        sys.exit("Docker Compose is missing: .venv/bin/pip install -r tests/e2e/python/requirements.txt")
    program = pathlib.Path(package.origin).parent / "docker-compose"
    model = json.loads(run(program, "-f", DEPLOY / "compose/compose.yml", "config", "--format", "json").stdout)
    for name, service in model["services"].items():
        tag = service["image"].rpartition(":")[2]
        assert re.fullmatch(r"\d+\.\d+\.\d+|v\d+\.\d+\.\d+", tag), f"{name}: the tag {tag} is not pinned"
        assert service["restart"] == "unless-stopped" and service["cap_drop"] == ["ALL"], name
        limits = service["deploy"]["resources"]["limits"]
        assert {"cpus", "memory", "pids"} <= limits.keys(), f"{name}: {limits}"
        # The relay's is in its image.
        assert name == "relay" or "healthcheck" in service, f"{name} has no health check"
        assert name == "kafka" or service.get("read_only"), f"{name}: its root can be written to"
        for mount in service.get("volumes", []):
            source = pathlib.Path(mount["source"])
            if mount["type"] != "bind" or DEPLOY / "compose/authority" in source.parents:
                continue
            assert source.exists(), f"{name}: {source} is not there"
        for key, value in (service.get("environment") or {}).items():
            secret = re.search("PASSWORD|SECRET|TOKEN", key)
            assert not secret or value.startswith("/run/secrets/"), f"{name}: {key} holds a secret"


def kubernetes() -> None:
    manifests = run("kubectl", "kustomize", DEPLOY / "kubernetes/base").stdout
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(manifests)
        file.flush()
        for version in KUBERNETES:
            run(tool("kubernetes-validate"), "--strict", "--quiet", "-k", version, file.name)


def emqx() -> None:
    """The rules' shapes, as emqx_authz_rule compiles them: a permission for all, or with who, what and topics. EMQX itself is not to be had here."""
    text = re.sub(r"%.*", "", (DEPLOY / "emqx/acl.conf").read_text())
    rules = [rule.strip() for rule in re.split(r"\}\s*\.(?:\s+|$)", text) if rule.strip()]
    assert len(rules) > 3, rules
    for rule in rules:
        depth, quoted, parts = 0, False, [""]
        for character in rule.removeprefix("{"):
            quoted ^= character == '"'
            depth += 0 if quoted else (character in "{[") - (character in "}]")
            if character == "," and depth == 0 and not quoted:
                parts.append("")
            else:
                parts[-1] += character
        parts = [part.strip() for part in parts]
        assert depth == 0 and not quoted and parts[0] in ("allow", "deny"), rule
        assert len(parts) == 4 or parts[1:] == ["all"], f"{rule}: {len(parts)} elements"
        assert len(parts) == 2 or parts[2] in ("all", "publish", "subscribe") and parts[3].startswith("["), rule
    assert rules[-1] == "{deny, all", "what no rule allows is denied"


def prometheus() -> None:
    # Beside each other, as compose.yml mounts them.
    with tempfile.TemporaryDirectory() as folder:
        for file in ("compose/prometheus.yml", "prometheus/headwater.rules.yml"):
            shutil.copy(DEPLOY / file, folder)
        run("promtool", "check", "config", pathlib.Path(folder) / "prometheus.yml")


def systemd() -> None:
    for name in ("headwater-agent", "headwater-first-boot", "headwater-relay"):
        unit = (DEPLOY / f"systemd/{name}.service").read_text()
        with tempfile.TemporaryDirectory() as folder:
            # A program that is not there is a mistake to systemd, too.
            file = pathlib.Path(folder) / f"{name}.service"
            file.write_text(re.sub(r"/usr/bin/headwater-\w+ ", "/bin/true ", unit))
            # A key that it does not know is worth a line to it, and no exit code.
            told = run("systemd-analyze", "verify", file).stderr
            assert file.name not in told, told
            exposure = EXPOSURE_FIRST_BOOT if name == "headwater-first-boot" else EXPOSURE
            run("systemd-analyze", "security", "--offline=true", f"--threshold={exposure}", "--no-pager", file)


def main() -> None:
    for check in (container, compose, kubernetes, emqx, prometheus, systemd):
        check()
        print(f"deploy: {check.__name__} in order")


if __name__ == "__main__":
    main()
