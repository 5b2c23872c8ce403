"""The unified hierarchy: all controllers in one directory per group."""

import contextlib
import os
import signal
from pathlib import Path

from skerry.adapters.cgroup.base import (
    CgroupError,
    Limits,
    Usage,
    read_field,
    read_number,
    read_pids_below,
    remove_directory,
    sum_fields,
    write,
    write_if_there,
)

CONTROLLERS = ("memory", "cpu", "pids")
PERIOD_US = 100_000  # the kernel's default period of CPU quotas
_WEIGHT_DEFAULT, _SHARES_DEFAULT = 100, 1024  # cpu.weight 100 stands for 1024 shares
_WEIGHT_MAX = 10_000


class V2Group:
    """A directory `<mount>/<tree>/<name>`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def join(self) -> tuple[str, ...]:
        return (str(self.path / "cgroup.procs"),)

    def limit(self, limits: Limits) -> None:
        memory = "max" if limits.memory_bytes is None else str(limits.memory_bytes)
        quota = "max" if limits.cpu_millicores is None else str(limits.cpu_millicores * PERIOD_US // 1000)
        self._set("memory.max", memory)
        self._set("cpu.max", f"{quota} {PERIOD_US}")
        self._set("cpu.weight", _weight(limits.cpu_shares))
        self._set("pids.max", "max" if limits.pids is None else str(limits.pids))

    def allow_swap(self, allowed: bool) -> None:
        write_if_there(self.path / "memory.swap.max", "max" if allowed else "0")

    def squeeze(self) -> None:
        size = read_number(self.path / "memory.current")
        if size:
            # EAGAIN only says that less than asked for could be moved.
            write_if_there(self.path / "memory.reclaim", str(size))

    def oom_event(self) -> int | None:
        return None  # `memory.events` counts those of the groups in it

    def freeze(self, frozen: bool) -> None:
        write(self.path / "cgroup.freeze", "1" if frozen else "0")

    def usage(self) -> Usage:
        memory, cpu = self.path / "memory.stat", self.path / "cpu.stat"
        return Usage(
            memory_bytes=read_number(self.path / "memory.current"),
            private_bytes=read_field(memory, "anon") + read_field(memory, "shmem"),
            cpu_us=read_field(cpu, "usage_usec"),
            throttled_us=read_field(cpu, "throttled_usec"),
            oom_kills=read_field(self.path / "memory.events", "oom_kill"),
            pids=read_number(self.path / "pids.current"),
            read_bytes=sum_fields(self.path / "io.stat", "rbytes="),
            written_bytes=sum_fields(self.path / "io.stat", "wbytes="),
        )

    def pids(self) -> tuple[int, ...]:
        return read_pids_below(self.path)

    def kill(self) -> None:
        if (self.path / "cgroup.kill").exists():
            write_if_there(self.path / "cgroup.kill", "1")
        elif self.path.exists():
            self._freeze_and_kill()

    def remove(self) -> bool:
        return remove_directory(self.path)

    def _set(self, file: str, value: str) -> None:
        if (self.path / file).exists():
            write(self.path / file, value)

    def _freeze_and_kill(self) -> None:
        """Kernels before 5.14: what is frozen cannot fork, and dies by SIGKILL all the same."""
        write_if_there(self.path / "cgroup.freeze", "1")
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        write_if_there(self.path / "cgroup.freeze", "0")


class V2Tree:
    """`<mount>/<name>`, with the controllers handed down to its groups where they exist."""

    def __init__(self, mount: Path, name: str) -> None:
        self._path = mount / name
        self._mount = mount
        self._available = set[str]()
        with contextlib.suppress(OSError):
            self._available = set((mount / "cgroup.controllers").read_text().split())

    @property
    def limits(self) -> bool:
        return {"memory", "cpu"} <= self._available

    @property
    def squeezes(self) -> bool:
        # memory.reclaim came with 5.19; only a group that exists shows whether it is there.
        return "memory" in self._available and (not self._path.exists() or (self._path / "memory.reclaim").exists())

    def create(self, name: str) -> V2Group:
        path = self._path / name
        try:
            self._enable(self._mount)
            self._path.mkdir(exist_ok=True)
            self._enable(self._path)
            path.mkdir(exist_ok=True)
        except OSError as error:
            raise CgroupError(f"{path}: {error.strerror}") from error
        return V2Group(path)

    def open(self, name: str) -> V2Group:
        return V2Group(self._path / name)

    def exists(self) -> bool:
        return self._path.is_dir()

    def weigh(self, cpu_shares: int) -> None:
        write_if_there(self._path / "cpu.weight", _weight(cpu_shares))

    def names(self) -> tuple[str, ...]:
        if not self._path.is_dir():
            return ()
        return tuple(sorted(path.name for path in self._path.iterdir() if path.is_dir()))

    def remove(self) -> bool:
        return remove_directory(self._path)

    def _enable(self, path: Path) -> None:
        wanted = " ".join(f"+{name}" for name in CONTROLLERS if name in self._available)
        if wanted:
            write_if_there(path / "cgroup.subtree_control", wanted)


def _weight(cpu_shares: int) -> str:
    return str(min(_WEIGHT_MAX, max(1, cpu_shares * _WEIGHT_DEFAULT // _SHARES_DEFAULT)))
