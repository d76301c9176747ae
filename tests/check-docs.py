"""Checks what the pages name: every link and anchor in every Markdown file resolves, every setting and metric that is named exists, every alert has
its runbook, every screenshot is shown, every block of settings or commands is one that a test takes up (tests/e2e/docs.test.js), every message that a
table of symptoms quotes is a program's, the enrolment endpoint answers as the wire protocol says, and what was measured stands where the page says."""

import http
import os
import pathlib
import re
import subprocess
import sys

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Where a runbook_url leads.
RUNBOOKS = "https://github.com/headwater/headwater/blob/main/docs/alerts.md#"
# What a command in a block that no test runs may begin with, and why none runs it.
ELSEWHERE = {
    "apt-get install": "a machine whose packages one may change: tests/packages installs ours",
    "systemctl": "a booted systemd: tests/packages has one",
    "journalctl": "the same",
    "docker compose": "a container engine",
    "kubectl create namespace": "a cluster",
    "kubectl -n headwater create secret": "a cluster",
    "kubectl apply": "a cluster",
    "kubectl -n headwater exec": "a cluster; tests/e2e/compose.test.js runs what it runs",
    "kafka-consumer-groups.sh": "a distribution of Kafka: scripts/kafka fetches the server alone",
    "cargo build": "a build is what the tests run",
    "cargo demo": "tests/e2e/demo.test.js runs what it starts",
    "scripts/test": "it is what runs this",
    "scripts/release": "tests/packages runs it",
}
# Whose blocks a test of its own takes up, by the word behind `sh`.
TAKEN = {"updates": "docs/updating.md"}
# What systemctl is asked to do in pages, to a unit of deploy/systemd or of this list.
ACTIONS = ("start", "stop", "restart", "reload", "enable", "edit", "status")
UNITS = ("mosquitto", "daemon-reload")


def listed(*patterns):
    out = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z", *patterns], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    return sorted(name for name in out.split("\0") if name and (ROOT / name).exists())


def fences(text):
    """(line, info, body) of each fenced block."""
    at, info, body, indent = 0, None, [], ""
    for number, line in enumerate(text.split("\n"), 1):
        fence = re.match(r"(\s*)```(.*)$", line)
        if fence and info is None:
            at, info, body = number, fence[2].strip(), []
        elif fence:
            yield at, info, "\n".join(body)
            info = None
        elif info is not None:
            body.append(line)


def prose(text):
    """The text without blocks and comments, its lines kept in number."""
    blank = lambda match: "\n" * match[0].count("\n")
    text = re.sub(r"^<!--.*?^-->$", blank, text, flags=re.S | re.M)
    return re.sub(r"^\s*```.*?^\s*```$", blank, text, flags=re.S | re.M)


def anchors(text):
    """What GitHub calls the headings."""
    seen, found = {}, set(re.findall(r'<a (?:id|name)="([^"]+)"', text))
    for heading in re.findall(r"^#{1,6} (.+)$", prose(text), flags=re.M):
        heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        count = seen.get(name, 0)
        seen[name] = count + 1
        found.add(f"{name}-{count}" if count else name)
    return found


def commands(body):
    """The commands of a block, each in one line, without comments."""
    for command in body.replace("\\\n", " ").split("\n"):
        command = re.sub(r"(^|\s)#.*", "", command).strip().removeprefix("sudo ")
        if command:
            yield command


def not_run(command):
    """What is wrong with a command that no test runs; nothing: it is one of ELSEWHERE, and names what there is."""
    if not any(command == head or command.startswith(head + " ") for head in ELSEWHERE):
        return "no test runs it: ```sh test"
    words = command.split()
    if words[0].startswith("scripts/") and not os.access(ROOT / words[0], os.X_OK):
        return "there is no such program"
    if words[0] == "systemctl":
        action, *units = [word for word in words[1:] if not word.startswith("--")]
        known = [path.stem for path in (ROOT / "deploy/systemd").glob("*.service")]
        if action not in ACTIONS + UNITS or any(unit not in (*known, *UNITS) for unit in units):
            return "systemd would not know it"
    return None


def texts():
    """What the programs print, as far as it is fixed."""
    found = []
    for name in listed("agent/src/*.rs", "relay/src/*.rs", "proto/src/*.rs"):
        if "tests" not in name:
            text = (ROOT / name).read_text(encoding="utf-8").split("#[cfg(test)]\nmod tests {")[0]
            text = re.sub(r"\\\n\s*", "", text)
            found += re.findall(r'"((?:[^"\\]|\\.)*)"', text)
    return "\n".join([*found, *(f"{os.strerror(number)} (os error {number})" for number in range(1, 134))])


def settings(name):
    """Every key of an annotated file, with its tables before it, and every table."""
    keys, table = set(), ""
    for line in (ROOT / name).read_text().split("\n"):
        header = re.match(r"(?:# ?)*\[\[?([a-z_.]+)\]\]?", line)
        key = re.match(r"(?:# ?)*([a-z_]+) = ", line)
        if header:
            table = header[1]
            keys.update(".".join(table.split(".")[: n + 1]) for n in range(table.count(".") + 1))
        elif key:
            keys.add(f"{table}.{key[1]}" if table else key[1])
    return keys


def enrolment():
    """What docs/wire.md has to say of the enrolment endpoint, as the code has it: pieces of text."""
    server, limits = ((ROOT / "relay/src/enroll" / name).read_text(encoding="utf-8") for name in ("server.rs", "limits.rs"))
    found = [f"`POST {route}`" for route in re.findall(r'\.route\("(/\S+)", post', server)]
    answers = re.findall(r'\("(\w+)", StatusCode::(\w+), \w+, (?:None|Some\(([\d_]+)\))\)', server)
    answers += re.findall(r'count\(request, "(\w+)"\);\s+let why = [^;]+;\s+return refuse\(StatusCode::(\w+), why, Some\((\d+)\)\)', server)
    rows = {outcome: rf"\| {http.HTTPStatus[status].value} \| `{outcome}` \|[^|]+\| {after.replace('_', '')} ?\|" for outcome, status, after in answers}
    rows |= {outcome: rf"\| 200 \| `{outcome}` \|" for outcome in ("issued", "repeated")}
    table = re.search(r"const OUTCOMES.*?\n\];", server, flags=re.S)[0]
    found += [rows.get(outcome, outcome) for outcome in set(re.findall(r'"(\w+)"', table)) - {"enroll", "renew"}]
    number = lambda text, name: int(re.search(rf"const {name}: \w+ = (?:Duration::from_secs\()?(\d+)", text)[1])
    found += [
        f"a body and a head have {number(server, 'BODY')} KiB each",
        f"TLS has {number(server, 'HEAD')} s, the head {number(server, 'HEAD')} s, all of it together {number(server, 'LONGEST')} s",
        f"has {number(limits, 'CONNECTIONS_EACH')} connections at a time, of {number(limits, 'CONNECTIONS')}; ",
        f"after {number(limits, 'GRACE')} s in any case",
    ]
    return found


def main():
    wrong = []
    files = {name: (ROOT / name).read_text(encoding="utf-8") for name in listed("*.md")}
    pages = [name for name in files if name.startswith(("docs/", "deploy/")) or name == "README.md"]

    def place(name, text, at):
        return f"{name}:{text.count(chr(10), 0, at) + 1}"

    links = 0
    for name, text in files.items():
        plain = prose(text)
        for match in re.finditer(r"\]\(([^)\s]+)\)", plain):
            target = match[1]
            if re.match(r"[a-z]+:", target):
                continue
            links += 1
            path, _, anchor = target.partition("#")
            file = (ROOT / name).parent / path if path else ROOT / name
            if not file.exists():
                wrong.append(f"{place(name, plain, match.start())}: {target} is not there")
            elif anchor and anchor not in anchors(file.read_text(encoding="utf-8")):
                wrong.append(f"{place(name, plain, match.start())}: {target}: there is no such heading")

    keys = settings("deploy/agent.toml") | settings("deploy/relay.toml")
    tables = {key.split(".")[0] for key in keys if "." in key}
    named = 0
    for name in pages:
        plain = prose(files[name])
        for match in re.finditer(r"`(?:\[\[?)?([a-z]+(?:\.[a-z_]+)+)(?:\]\]?)?(?: = [^`]*)?`", plain):
            if match[1].split(".")[0] in tables and not match[1].endswith((".toml", ".md", ".test.js", ".conf", ".sql", ".org")):
                named += 1
                if match[1] not in keys:
                    wrong.append(f"{place(name, plain, match.start())}: there is no setting {match[1]}")

    metrics = set(re.findall(r"^\| `((?:headwater|process)_\w+)`", files.get("docs/metrics.md", ""), flags=re.M))
    rules = (ROOT / "deploy/prometheus/headwater.rules.yml").read_text()
    for name, text in [(name, files[name]) for name in pages] + [("deploy/prometheus/headwater.rules.yml", rules)]:
        for match in re.finditer(r"\bheadwater_[a-z_]*[a-z]\b(?![_*])", text):
            if match[0] in ("headwater_agent", "headwater_relay", "headwater_proto"):
                continue
            metric = re.sub(r"_(bucket|count|sum)$", "", match[0])
            if metric not in metrics and match[0] not in metrics:
                wrong.append(f"{place(name, text, match.start())}: there is no metric {match[0]} in docs/metrics.md")

    alerts = [rule for group in yaml.safe_load(rules)["groups"] for rule in group["rules"]]
    book = files.get("docs/alerts.md", "")
    headings = re.findall(r"^#+ (Headwater\w+)$", book, flags=re.M)
    for rule in alerts:
        name, url = rule["alert"], rule["annotations"].get("runbook_url", "")
        if name not in headings:
            wrong.append(f"docs/alerts.md: no runbook for {name}")
        if url != RUNBOOKS + name.lower():
            wrong.append(f"deploy/prometheus/headwater.rules.yml: {name}: runbook_url is {url!r}, not {RUNBOOKS + name.lower()}")
    for heading in set(headings) - {rule["alert"] for rule in alerts}:
        wrong.append(f"docs/alerts.md: there is no alert {heading}")

    text = "\n".join(files.values())
    for shot in listed("docs/screenshots/*"):
        if pathlib.PurePath(shot).name not in text:
            wrong.append(f"{shot} is shown nowhere")

    printed, quoted = texts(), 0
    for name in pages:
        # The first column of a table of symptoms: `a message`, `…` or `in parts … of it`.
        for table in re.finditer(r"^\| (?:you see|it says) \|.*\n\|[-|]*\|\n((?:\|.*\n)+)", files[name], flags=re.M):
            for row in re.finditer(r"^\| (.*?) \|", table[1], flags=re.M):
                for message in re.findall(r"`([^`]+)`", row[1]):
                    quoted += 1
                    for part in filter(None, (part.strip() for part in message.split("…"))):
                        if part not in printed:
                            at = table.start(1) + row.start()
                            wrong.append(f"{place(name, files[name], at)}: no program says {part!r}")

    facts = enrolment()
    for fact in facts:
        if not re.search(fact, files["docs/wire.md"]):
            wrong.append(f"docs/wire.md: of the enrolment endpoint it does not say {fact!r}")

    measured = "".join(files[name] for name in ("ARCHITECTURE.md", "CONTRIBUTING.md"))
    figures = set(re.findall(r"\d[\d,.]*\d", measured))
    for match in re.finditer(r"\d{1,3}(?:,\d{3})+", prose(files["docs/sizing.md"])):
        if match[0] not in figures:
            wrong.append(f"{place('docs/sizing.md', prose(files['docs/sizing.md']), match.start())}: {match[0]} was not measured (CONTRIBUTING.md)")

    taken = 0
    for name in pages:
        for line, info, body in fences(files[name]):
            words = info.split()
            if words[:1] == ["toml"] and not (len(words) > 1 and re.match(r"agent|relay|file=|elsewhere", words[1])):
                wrong.append(f"{name}:{line}: say whose settings these are: ```toml agent, ```toml relay")
            elif words == ["sh"]:
                for command in commands(body):
                    if why := not_run(command):
                        wrong.append(f"{name}:{line}: {command}: {why}")
            elif words[:1] == ["sh"] and words[1] != "test" and TAKEN.get(words[1]) != name:
                wrong.append(f"{name}:{line}: no test takes up a block {info}")
            elif words[:1] in (["bash"], ["shell"], ["console"], []):
                wrong.append(f"{name}:{line}: a block of {info or 'nothing'}: call it sh or text")
            else:
                taken += 1
            source = re.search(r"\bfrom=(\S+)", info)
            if source and body.strip("\n") not in (ROOT / source[1]).read_text(encoding="utf-8"):
                wrong.append(f"{name}:{line}: this does not stand so in {source[1]}")

    for each in wrong:
        print(each, file=sys.stderr)
    print(f"{len(files)} files: {links} links, {named} settings, {len(metrics)} metrics, {len(alerts)} alerts, {quoted} messages, {len(facts)} of enrolment, {taken} blocks; {len(wrong)} wrong")
    return 1 if wrong or not links else 0


if __name__ == "__main__":
    sys.exit(main())
