"""What `skerry run` and a `skerry.toml` say of a program, and what the API is told of it.

One record for both: options of the command and keys of the file have the same names and the same meaning.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from skerry.apps.programs import words
from skerry.apps.programs.words import BadWord
from skerry.kit.record import Record

FILE_BYTES_MAX = 64 * 1024  # of one that is put into the program
ISOLATIONS = ("container", "gvisor", "microvm")
NEW_APP_SCALE: Mapping[str, object] = {"min_per_site": 0, "min_total": 1}
"""An image is large: unlike a Worker it does not run in every city without a word, but where its users are, once at least."""


class FileWanted(Record):
    """A file inside: `from` a file here, or the variable `env` of the deployer's environment."""

    path: str
    source: str | None = msgspec.field(default=None, name="from")
    env: str | None = None
    mode: str = "400"


class HealthWanted(Record):
    """One of `http` (a path), `tcp` (true) and `exec` (a command)."""

    http: str | None = None
    tcp: bool | None = None
    command: tuple[str, ...] | None = msgspec.field(default=None, name="exec")
    port: int | None = None
    interval: str | None = None
    timeout: str | None = None
    grace: str | None = None
    failures: int | None = None


class NetworkWanted(Record):
    internet: bool | None = None
    only_allowed: bool | None = None
    allow: tuple[str, ...] | None = None
    egress_kbits_max: int | None = None
    ingress_kbits_max: int | None = None


class ProgramSpec(Record):
    """`cities`: how many, or which. `port`: 8080, or "6379/tcp" for what speaks no HTTP. Sizes and times as people write
    them (256M, 0.5, 30s)."""

    image: str
    isolation: str | None = None
    command: tuple[str, ...] | None = None
    args: tuple[str, ...] | None = None
    working_dir: str | None = None
    user: str | None = None
    port: int | str | None = None
    public_port: int | None = None
    cpu: str | float | int | None = None
    memory: str | int | None = None
    disk: str | int | None = None
    read_only: bool | None = None
    pids: int | None = None
    env: dict[str, str | int | float | bool] = msgspec.field(default_factory=dict[str, str | int | float | bool])
    secrets: tuple[str, ...] = ()
    files: tuple[FileWanted, ...] = ()
    health: HealthWanted | None = None
    network: NetworkWanted | None = None
    restart: str | None = None
    stop_grace: str | None = None
    asleep_after: str | None = None
    cities: int | tuple[str, ...] | None = None
    min: int | None = None
    max: int | None = None
    scale: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    message: str | None = None


def body_of(spec: ProgramSpec, *, environment: Mapping[str, str], base: Path, new: bool) -> dict[str, object]:
    """The request's body but for the image. `base`: where relative files are. `new`: the app is not there yet.

    Raises `BadWord`.
    """
    if spec.isolation is not None and spec.isolation not in ISOLATIONS:
        raise BadWord(f"isolation is {spec.isolation[:40]}: container, gvisor or microvm")
    amounts: dict[str, object] = {
        "cpu_millicores": None if spec.cpu is None else words.millicores(spec.cpu),
        "memory_mib": None if spec.memory is None else words.mib(spec.memory),
        "writable_mib": None if spec.disk is None else words.mib(spec.disk),
        "stop_grace_ms": None if spec.stop_grace is None else words.milliseconds(spec.stop_grace),
        "asleep_after_s": None if spec.asleep_after is None else words.seconds(spec.asleep_after),
        "pids_max": spec.pids,
    }
    plain: dict[str, object] = {
        name: getattr(spec, name)
        for name in (
            "isolation", "command", "args", "working_dir", "user", "public_port", "read_only", "restart", "message",
        )
    }  # fmt: skip
    made: dict[str, object] = {
        **plain,
        **({} if spec.port is None else words.port(spec.port)),
        **amounts,
        "env": {name: _text(value) for name, value in spec.env.items()},
        "secrets": words.secrets(spec.secrets, environment=environment),
        "files": [_file(file, environment, base) for file in spec.files],
        "health": None if spec.health is None else _health(spec.health),
        "network": None if spec.network is None else _without_nones(msgspec.structs.asdict(spec.network)),
        "scale": scale_of(spec, new=new),
    }
    return _without_nones(made)


def scale_of(spec: ProgramSpec, *, new: bool) -> dict[str, object]:
    """Changes of the app's scale. What `scale` names itself goes before the short words."""
    found: dict[str, object] = {}
    if isinstance(spec.cities, int):
        if spec.cities < 1:
            raise BadWord(f"cities is {spec.cities}: it is at least 1, or a list of names")
        found |= {"min_per_site": 0, "min_total": spec.cities, "survive_sites": spec.cities - 1, "allow": None}
    elif spec.cities is not None:
        found |= {"allow": list(spec.cities), "min_per_site": 1}
    elif new and not spec.scale:
        found |= NEW_APP_SCALE
    if spec.min is not None:
        found["min_total"] = spec.min
    if spec.max is not None:
        found["max_total"] = spec.max
    return {**found, **spec.scale}


def _text(value: str | float | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _file(file: FileWanted, environment: Mapping[str, str], base: Path) -> dict[str, object]:
    if (file.source is None) == (file.env is None):
        raise BadWord(f"file {file.path[:80]}: either `from` (a file) or `env` (a variable) says what is in it")
    try:
        mode = int(file.mode, 8)
    except ValueError:
        raise BadWord(f"file {file.path[:80]}: the mode {file.mode[:20]!r} is not of the form 400") from None
    if file.env is not None:
        if file.env not in environment:
            raise BadWord(f"file {file.path[:80]}: the environment has no variable {file.env[:60]}")
        return {"path": file.path, "text": environment[file.env], "mode": mode}
    return {"path": file.path, "text": _read(base / str(file.source)), "mode": mode}


def _read(path: Path) -> str:
    try:
        with path.open("rb") as opened:
            data = opened.read(FILE_BYTES_MAX + 1)
        if len(data) > FILE_BYTES_MAX:
            raise BadWord(f"{path}: more than {FILE_BYTES_MAX:,} bytes; larger files belong into the image")
        return data.decode()
    except OSError as error:
        raise BadWord(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError:
        raise BadWord(f"{path}: not text in UTF-8; other files belong into the image") from None


def _health(wanted: HealthWanted) -> dict[str, object]:
    kinds = [name for name, value in (("http", wanted.http), ("tcp", wanted.tcp), ("exec", wanted.command)) if value]
    if len(kinds) != 1:
        raise BadWord("health has one of http (a path), tcp (true) and exec (a command)")
    check: dict[str, object] = {"kind": kinds[0]}
    if wanted.http:
        check["path"] = wanted.http
    if wanted.command:
        check["command"] = list(wanted.command)
    elif wanted.port is not None:
        check["port"] = wanted.port
    times = (("interval_ms", wanted.interval), ("timeout_ms", wanted.timeout), ("grace_ms", wanted.grace))
    made: dict[str, object] = {"check": check, "failures_max": wanted.failures}
    made |= {name: None if value is None else words.milliseconds(value) for name, value in times}
    return _without_nones(made)


def _without_nones(values: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not None}
