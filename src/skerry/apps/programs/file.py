"""`skerry.toml`: several apps in one file, images and Workers.

[apps.web]
image = "web.oci.tar"     # a program; or: worker = "site/" (a directory with a wrangler configuration)
port = 8080
"""

import tomllib
from pathlib import Path
from typing import Any

import msgspec

from skerry.apps.client import ClientError
from skerry.apps.programs.spec import ProgramSpec
from skerry.kit.record import Record

FILE_BYTES_MAX = 1 << 20
NAME = "skerry.toml"
HINT = "docs/howto/run-an-image.md shows all keys"


class WorkerSpec(Record):
    """A Worker, deployed by wrangler from its own directory."""

    worker: str


class AppsFile(Record):
    """`base`: the directory that paths in it start from."""

    base: Path
    apps: dict[str, ProgramSpec | WorkerSpec]


def read_apps(path: Path) -> AppsFile:
    """Raises `ClientError` with file, app and key."""
    path = path / NAME if path.is_dir() else path
    try:
        with path.open("rb") as opened:
            data = opened.read(FILE_BYTES_MAX + 1)
        if len(data) > FILE_BYTES_MAX:
            raise ClientError(f"{path}: more than {FILE_BYTES_MAX:,} bytes")
        found = tomllib.loads(data.decode())
    except OSError as error:
        raise ClientError(f"{path}: {error.strerror or error}", hint=HINT) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ClientError(f"{path}: {error}", hint=HINT) from None
    unknown = sorted(found.keys() - {"apps"})
    if unknown or not isinstance(found.get("apps"), dict) or not found["apps"]:
        said = f"unknown key {unknown[0]!r}" if unknown else "there are no [apps.NAME] in it"
        raise ClientError(f"{path}: {said}", hint=HINT)
    return AppsFile(base=path.parent, apps={name: _spec(path, name, value) for name, value in found["apps"].items()})


def _spec(path: Path, name: str, value: Any) -> ProgramSpec | WorkerSpec:
    kind = WorkerSpec if isinstance(value, dict) and "worker" in value else ProgramSpec
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ClientError(f"{path}: apps.{name}: {str(error).replace('`$.', '`')}", hint=HINT) from None
