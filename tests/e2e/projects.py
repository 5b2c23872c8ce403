"""Worker projects as developers have them."""

import json
from pathlib import Path


def write_project(directory: Path, name: str, code: str, **config: object) -> Path:
    """TypeScript and a wrangler.json; `config` is merged into the latter."""
    (directory / "src").mkdir(parents=True, exist_ok=True)
    (directory / "src/index.ts").write_text(code)
    settings = {"name": name, "main": "src/index.ts", "compatibility_date": "2026-11-01", **config}
    (directory / "wrangler.json").write_text(json.dumps(settings))
    return directory
