"""Shows the files of deploy/ to the tools that they are for, as far as those can be had without a container engine or a cluster."""

import importlib.util
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib

import jsonschema
import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
# The oldest Kubernetes that the manifests are written for, and the newest that there are schemas of.
KUBERNETES = ["1.29", "1.37"]
# By which Prometheus finds relays on Kubernetes: every pod has it.
LABEL = "app.kubernetes.io/name=headwater-relay"
# What KEDA's scalers of these types take beside what its schema says (pkg/scalers of the module that tests/schemas names).
TRIGGERS = {"prometheus": {"serverAddress", "query", "threshold", "ignoreNullValues"}, "cpu": {"value"}}
# What devices may reach of compose's machine.
FIELD = {"mosquitto": "8883", "enroll": "8443"}
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
        # That of the relay's image is in there.
        assert service["image"].startswith("headwater-relay:") or "healthcheck" in service, f"{name} has no health check"
        assert name == "kafka" or service.get("read_only"), f"{name}: its root can be written to"
        for mount in service.get("volumes", []):
            source = pathlib.Path(mount["source"])
            if mount["type"] != "bind" or DEPLOY / "compose/authority" in source.parents:
                continue
            assert source.exists(), f"{name}: {source} is not there"
        for key, value in (service.get("environment") or {}).items():
            secret = re.search("PASSWORD|SECRET|TOKEN", key)
            assert not secret or value.startswith("/run/secrets/"), f"{name}: {key} holds a secret"
        for port in service.get("ports", []):
            inside = port.get("host_ip") == "127.0.0.1"
            assert inside or FIELD.get(name) == port["published"], f"{name}: port {port['published']} is open to all"
    enrolment(model["services"])


def enrolment(services: dict) -> None:
    """The key that signs devices is in one process, which has what it needs and nothing else; its list gets to the broker."""
    authority = DEPLOY / "compose/authority"
    mounts = {
        name: {mount["target"]: (pathlib.Path(mount["source"]), not mount.get("read_only")) for mount in service.get("volumes", [])}
        for name, service in services.items()
    }
    # Folders that hold the key, or hold one that does.
    secret = {authority / "enroll", authority / "private", *(authority / "enroll").parents}
    holders = [name for name, own in mounts.items() for source, _ in own.values() if source in secret]
    assert holders == ["enroll"], f"{holders} have the key that signs devices"
    shared = services["enroll"]["networks"].keys() & services["kafka"]["networks"].keys()
    assert not shared, f"the enrolment endpoint reaches Kafka by {shared}"
    assert services["enroll"].get("scale", 1) == 1 and "replicas" not in services["enroll"]["deploy"], "the endpoint runs once"

    def place(service: str, path: str) -> tuple[pathlib.Path, bool]:
        for target, (source, writable) in mounts[service].items():
            if pathlib.PurePath(path).is_relative_to(target):
                return source / pathlib.PurePath(path).relative_to(target), writable
        raise AssertionError(f"{service}: {path} is on no mount")

    settings = tomllib.loads((DEPLOY / "compose/enroll.toml").read_text())["enroll"]
    for key in ("cert_file", "key_file", "ca_cert_file", "ca_key_file", "trust_file"):
        source, writable = place("enroll", settings[key])
        assert source.parent == authority / "enroll" and not writable, f"{key}: {source}"
    for key in ("state", "crl_file"):
        assert place("enroll", settings[key])[1], f"enroll.{key} cannot be written"
    crlfile = re.search(r"^crlfile (\S+)$", (DEPLOY / "mosquitto/certificates.conf").read_text(), re.M)
    assert crlfile and place("mosquitto", crlfile[1]) == (place("enroll", settings["crl_file"])[0], False), crlfile
    targets = yaml.safe_load((DEPLOY / "compose/prometheus.yml").read_text())["scrape_configs"][0]["static_configs"][0]["targets"]
    relays = {name for name, service in services.items() if service["image"].startswith("headwater-relay:")}
    assert {target.removesuffix(":9464") for target in targets} == relays, f"{targets} are scraped, {relays} run"


def kubernetes() -> None:
    manifests = run("kubectl", "kustomize", DEPLOY / "kubernetes/base").stdout
    of_one(list(yaml.safe_load_all(manifests)))
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(manifests)
        file.flush()
        for version in KUBERNETES:
            run(tool("kubernetes-validate"), "--strict", "--quiet", "-k", version, file.name)
    scaled = list(yaml.safe_load_all(run("kubectl", "kustomize", DEPLOY / "kubernetes/scaled").stdout))
    names = {object["metadata"]["name"] for object in scaled if object["kind"] == "Deployment"}
    validator = jsonschema.Draft202012Validator(json.loads((ROOT / "tests/schemas/keda-scaledobject.json").read_text()))
    for object in scaled:
        if object["kind"] == "ScaledObject":
            name = object["metadata"]["name"]
            wrong = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(object)]
            assert not wrong, f"{name}: {wrong}"
            assert object["spec"]["scaleTargetRef"]["name"] in names, f"{name} scales nothing"
            for trigger in object["spec"]["triggers"]:
                assert trigger["metadata"].keys() <= TRIGGERS[trigger["type"]], f"{name}: {trigger}"


def of_one(objects: list[dict]) -> None:
    """The enrolment endpoint is one, alone with its key, and calls nobody."""
    pods = {object["metadata"]["name"]: object["spec"]["template"] for object in objects if object["kind"] == "Deployment"}
    holders = [name for name, pod in pods.items() for volume in pod["spec"]["volumes"] if "enroll-keys" in str(volume.get("secret"))]
    assert holders == ["headwater-enroll"], f"{holders} have the key that signs devices"
    endpoint = next(object for object in objects if object["kind"] == "Deployment" and object["metadata"]["name"] == "headwater-enroll")
    assert endpoint["spec"]["replicas"] == 1 and endpoint["spec"]["strategy"] == {"type": "Recreate"}, endpoint["spec"]
    assert "headwater-enroll" not in (DEPLOY / "kubernetes/scaled/scaling.yaml").read_text(), "the endpoint runs once"

    def selects(selector: dict, labels: dict) -> bool:
        expressions = [(labels.get(each["key"]) in each["values"]) == (each["operator"] == "In") for each in selector.get("matchExpressions", [])]
        return selector.get("matchLabels", {}).items() <= labels.items() and all(expressions)

    policies = [object["spec"] for object in objects if object["kind"] == "NetworkPolicy"]
    for name, pod in pods.items():
        labels = pod["metadata"]["labels"]
        assert LABEL in map("=".join, labels.items()), f"{name}: Prometheus does not find it"
        assert {"name": "admin", "containerPort": 9464} in pod["spec"]["containers"][0]["ports"], f"{name}: Prometheus does not find it"
        own = [policy for policy in policies if selects(policy["podSelector"], labels)]
        directions = {direction for policy in own for direction in policy["policyTypes"]}
        assert directions == {"Ingress", "Egress"}, f"{name}: only {directions} is kept"
        ways_out = [rule for policy in own for rule in policy.get("egress") or []]
        assert bool(ways_out) == (name != "headwater-enroll"), f"{name}: {ways_out}"


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
        # All but what finds pods, which Debian's promtool is built without.
        settings = yaml.safe_load((DEPLOY / "prometheus/kubernetes.yml").read_text())
        for job in settings["scrape_configs"]:
            assert job["kubernetes_sd_configs"] == [{"role": "pod", "selectors": [{"role": "pod", "label": LABEL}]}], job
            del job["kubernetes_sd_configs"]
            job["static_configs"] = [{"targets": ["localhost:9464"]}]
        file = pathlib.Path(folder) / "kubernetes.yml"
        file.write_text(yaml.safe_dump(settings))
        run("promtool", "check", "config", file)


def grafana() -> None:
    """What Grafana would draw without a word, and wrongly. (That each expression has data: tests/e2e/metrics.test.js.)"""
    board = json.loads((DEPLOY / "grafana/dashboards/headwater-relay.json").read_text())
    source = {"type": "prometheus", "uid": "${datasource}"}
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels), "two panels have one id"
    taken: dict[tuple[int, int], str] = {}
    for panel in panels:
        title, place = panel["title"], panel["gridPos"]
        assert place["x"] + place["w"] <= 24, f"{title}: it is wider than the page"
        for cell in ((place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])):
            assert cell not in taken, f"{title} lies over {taken[cell]}"
            taken[cell] = title
        if panel["type"] == "row":
            continue
        unit = panel["options"].get("yAxis", panel["fieldConfig"]["defaults"]).get("unit")
        assert panel["description"] and unit, f"{title}: say what it shows, and in which unit"
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references) > 0, f"{title}: {references}"
        for target in panel["targets"]:
            expression = target["expr"]
            assert target["datasource"] == panel["datasource"] == source, f"{title}: another source than is chosen above"
            chosen = re.findall(r'\bheadwater_\w+\{job=~"\$job",instance=~"\$instance"', expression)
            assert len(chosen) == len(re.findall(r"\bheadwater_\w+", expression)), f"{title}: not of the instances that are chosen: {expression}"
            for counter in re.findall(r"(?:(\w+)\()?headwater_\w+_(?:total|bucket|count|sum)\b", expression):
                assert counter in ("rate", "increase"), f"{title}: a counter as it stands: {expression}"
    # Where compose.yml mounts the dashboards is where the provider looks for them.
    model = yaml.safe_load((DEPLOY / "compose/compose.yml").read_text())
    provider = yaml.safe_load((DEPLOY / "grafana/provisioning.yml").read_text())["providers"][0]
    assert f"../grafana/dashboards:{provider['options']['path']}:ro" in model["services"]["grafana"]["volumes"], provider


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
    for check in (container, compose, kubernetes, emqx, prometheus, grafana, systemd):
        check()
        print(f"deploy: {check.__name__} in order")


if __name__ == "__main__":
    main()
