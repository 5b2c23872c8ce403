"""What the OCI runtimes differ in: their flags, and how to see from outside what state a container is in."""

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from msgspec.structs import replace

from skerry.adapters import tools
from skerry.core.types.program import IsolationClass
from skerry.kit.record import Record
from skerry.ports.sandbox import Ability, EngineUnavailable

Name = Literal["crun", "runc", "runsc"]
BOTH: frozenset[Ability] = frozenset(("exec", "terminal", "files", "pause", "resize", "squeeze"))
CLONES = ("--restore-spec-validation=ignore",)  # a clone has files, users and a network of its own; builds of 2026 know it
_STATES: frozenset[Ability] = frozenset(("snapshot", "clone"))
GVISOR = BOTH | _STATES
NO_HOST_SOCKETS, HOST_SOCKETS = "--host-uds=none", "--host-uds=open"
GVISOR_PIDS_MIN = 512  # threads of the sentry and its stubs are processes of the host; its own are not


class Runtime(Record):
    """One runtime on this machine. `path` is absolute."""

    name: str
    path: str
    version: str
    isolation: IsolationClass
    abilities: frozenset[Ability]
    overhead_mib: int
    options: tuple[str, ...] = ()  # for every command
    missing: tuple[tuple[str, str], ...] = ()

    @property
    def is_gvisor(self) -> bool:
        return self.isolation == "gvisor"

    def with_host_sockets(self) -> "Runtime":
        """For a sandbox that may connect to sockets bound for it; it cannot make any that the host sees."""
        return replace(self, options=tuple(HOST_SOCKETS if option == NO_HOST_SOCKETS else option for option in self.options))

    def command(self, state: Path, log: Path | None, *arguments: str) -> tuple[str, ...]:
        told = () if log is None else (f"--log={log}", "--log-format=json")
        return (self.path, f"--root={state}", *told, *self.options, *arguments)

    def started(self, state: Path, sandbox: str, pid: int, parent: int) -> bool:
        """Whether the program runs, given the container's first process."""
        if self.is_gvisor:
            return _gvisor_status(state, sandbox) == "running"
        return _executable(pid) not in (None, _executable(parent))

    def complaint(self, log: Path) -> str:
        """What it says went wrong; empty if nothing did."""
        try:
            lines = log.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return _errors(lines)

    def leftovers(self, state: Path, sandbox: str) -> Iterable[Path]:
        """Its own files of a container."""
        return state.glob(f"*{sandbox}*")


def find(name: Name) -> Runtime:
    """Raises `EngineUnavailable`, with how to get it."""
    tool = {"crun": tools.find_crun, "runc": tools.find_runc, "runsc": tools.find_runsc}[name]()
    if not tool.usable:
        raise EngineUnavailable(f"{name}: {tool.problem}; get it by: {tool.remedy}")
    if name == "runsc":
        return (runsc if has_systrap(tool.version) else old_runsc)(tool.path, tool.version)
    return {"crun": crun, "runc": runc}[name](tool.path, tool.version)


def has_systrap(version: str) -> bool:
    """Builds before 2023 only have the slower ptrace."""
    return version >= "2023" and version[:8].isdigit()


def crun(path: str, version: str) -> Runtime:
    return Runtime(
        name="crun", path=path, version=version, isolation="container", abilities=BOTH, overhead_mib=2,
        options=("--cgroup-manager=cgroupfs",),
    )  # fmt: skip


def runc(path: str, version: str) -> Runtime:
    old = version.startswith(("1.0.", "1.1."))  # joins the user namespace first, and may not join the given network after it
    missing = (("exec", f"runc {version} cannot enter a container with mapped user ids; 1.2 can, and crun"),) if old else ()
    abilities = BOTH - {"exec", "terminal"} if old else BOTH
    return Runtime(
        name="runc", path=path, version=version, isolation="container", abilities=abilities, overhead_mib=12, missing=missing
    )


def runsc(path: str, version: str) -> Runtime:
    return Runtime(
        name="runsc", path=path, version=version, isolation="gvisor", abilities=GVISOR, overhead_mib=48,
        options=("--platform=systrap", "--network=sandbox", "--overlay2=none", NO_HOST_SOCKETS, *CLONES),
    )  # fmt: skip


def old_runsc(path: str, version: str) -> Runtime:
    """Debian's, of 2022: it traces every call, and its own network does not start on newer kernels."""
    missing = (("snapshot", f"runsc {version} is too old; skerry doctor --get gvisor"),)
    return Runtime(
        name="runsc", path=path, version=version, isolation="gvisor", abilities=BOTH, overhead_mib=48,
        options=("--platform=ptrace", "--network=host"), missing=missing,
    )  # fmt: skip


def _executable(pid: int) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):
        found = os.stat(f"/proc/{pid}/exe")  # noqa: PTH116 the link leads to a file without a name
        return found.st_dev, found.st_ino
    return None


def _gvisor_status(state: Path, sandbox: str) -> str:
    for path in state.glob(f"{sandbox}_sandbox:*.state"):
        with contextlib.suppress(OSError, ValueError):
            status = json.loads(path.read_bytes()).get("status")
            return {2: "running", "running": "running"}.get(status, str(status))
    return ""


def _errors(lines: list[str]) -> str:
    words: list[str] = []
    for line in lines:
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if entry.get("level") in ("error", "fatal"):
                words.append(str(entry.get("msg", "")))
    return "; ".join(words)[-1000:]
