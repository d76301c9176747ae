"""Cross.toml has what cross knows (docs/config_file.md in its repository), nothing else, and a table for each target of scripts/cross."""

import pathlib
import subprocess
import sys
import tomllib

text, texts, flag = str, list, bool
COMMANDS = (text, texts)
ENVIRONMENT = {"volumes": texts, "passthrough": texts}
DOCKERFILE = {"file": text, "context": text, "build-args": dict}
ZIG = {"enable": flag, "version": text, "image": text}
BOTH = {
    "build-std": (flag, texts),
    "xargo": flag,
    "pre-build": COMMANDS,
    "env": ENVIRONMENT,
    "dockerfile": (text, DOCKERFILE),
    "zig": (flag, text, ZIG),
}
KNOWN = {
    "build": BOTH | {"default-target": text},
    "target": None,
}
TARGET = BOTH | {"image": (text, {"name": text, "toolchain": texts}), "runner": text}
RUNNERS = {"native", "qemu-user", "qemu-system"}


def check(where: str, table: dict, known: dict) -> list[str]:
    """What is wrong in a table, one line each."""
    wrong = []
    for key, value in table.items():
        if key not in known:
            wrong.append(f"{where}.{key}: cross knows no such key; it knows {', '.join(known)}")
            continue
        kinds = known[key] if isinstance(known[key], tuple) else (known[key],)
        inner = next((kind for kind in kinds if isinstance(kind, dict)), None)
        if isinstance(value, dict) and inner is not None:
            wrong += check(f"{where}.{key}", value, inner)
        elif not isinstance(value, tuple(kind for kind in kinds if isinstance(kind, type))):
            wrong.append(f"{where}.{key} = {value!r}: not of a kind that cross reads")
        elif isinstance(value, list) and not all(isinstance(each, str) for each in value):
            wrong.append(f"{where}.{key}: not all of it is text")
    return wrong


def main() -> int:
    root = pathlib.Path(__file__).resolve().parent.parent
    settings = tomllib.loads((root / "Cross.toml").read_text(encoding="utf-8"))
    listed = subprocess.run([root / "scripts/cross", "--list"], check=True, capture_output=True, text=True).stdout
    targets = [line.split()[0] for line in listed.splitlines()]
    wrong = [f"[{key}]: cross knows {', '.join(KNOWN)}" for key in settings.keys() - KNOWN.keys()]
    wrong += check("build", settings.get("build", {}), KNOWN["build"])
    for name, table in settings.get("target", {}).items():
        wrong += check(f"target.{name}", table, TARGET)
        if table.get("runner") not in RUNNERS:
            wrong.append(f"target.{name}.runner = {table.get('runner')!r}: it is one of {', '.join(sorted(RUNNERS))}")
        if name not in targets:
            wrong.append(f"target.{name}: scripts/cross has no such target")
    wrong += [f"{name}: a target of scripts/cross without a table" for name in targets if name not in settings.get("target", {})]
    for line in wrong:
        print(f"Cross.toml: {line}", file=sys.stderr)
    print(f"Cross.toml: {len(targets)} targets")
    return 1 if wrong or not targets else 0


if __name__ == "__main__":
    sys.exit(main())
