"""Parses every TOML, YAML and JSON file that the repository holds, so that a slip in one is found before a user finds it."""

import json
import pathlib
import subprocess
import sys
import tomllib

import yaml

PARSERS = {
    ".toml": lambda text: tomllib.loads(text),
    ".yml": lambda text: list(yaml.safe_load_all(text)),
    ".yaml": lambda text: list(yaml.safe_load_all(text)),
    ".json": lambda text: json.loads(text),
}


def main() -> int:
    root = pathlib.Path(__file__).resolve().parent.parent
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True, text=True).stdout
    parsed = wrong = 0
    for name in filter(None, listed.split("\0")):
        parse = PARSERS.get(pathlib.PurePath(name).suffix)
        if parse is None:
            continue
        try:
            parse((root / name).read_text(encoding="utf-8"))
            parsed += 1
        except (ValueError, yaml.YAMLError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            wrong += 1
    print(f"{parsed} files parse, {wrong} do not")
    return 1 if wrong or not parsed else 0


if __name__ == "__main__":
    sys.exit(main())
