"""The unified hierarchy: all controllers in one directory per group."""

import contextlib
import os
import signal
from pathlib import Path

from skerry.adapters.cgroup.base import (
    CgroupError,
    DiskLimits,
    Limits,
    Usage,
    groups_of,
    read_field,
    read_fields,
    read_number,
    read_pids_below,
    read_threads_below,
    remove_directory,
    sum_below,
    sum_fields,
    weight_of,
    write,
    write_if_there,
    write_weight,
)
from skerry.adapters.cgroup.slices import DEFAULT_NS, SHORT_NS, set_slices

CONTROLLERS = ("memory", "cpu", "pids", "io")
PERIOD_US = 100_000  # the kernel's default period of CPU quotas
_WEIGHT_DEFAULT, _SHARES_DEFAULT = 100, 1024  # cpu.weight 100 stands for 1024 shares
_WEIGHT_MAX = 10_000
WEIGHT_LEAST = "1"


class V2Group:
    """A directory `<mount>/<tree>.<name>`."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    @property
    def join(self) -> tuple[str, ...]:
        return (str(self.path / "cgroup.procs"),)

    def limit(self, limits: Limits) -> None:
        memory = "max" if limits.memory_bytes is None else str(limits.memory_bytes)
        self._set("memory.max", memory)
        quota = "max" if limits.cpu_millicores is None else str(limits.cpu_millicores * PERIOD_US // 1000)
        self._set("cpu.max", f"{quota} {PERIOD_US}")
        if (self.path / "cpu.weight").exists():
            weight, idle = _weight(weight_of(limits)), limits.cpu_standing == "last"
            write_weight(self.path / "cpu.weight", self.path / "cpu.idle", idle=idle, value=weight, least=WEIGHT_LEAST)
            slice_ns = DEFAULT_NS if limits.cpu_standing == "first" else SHORT_NS
            set_slices(lambda: read_threads_below(self.path, "cgroup.threads"), slice_ns)
        self._set("pids.max", "max" if limits.pids is None else str(limits.pids))
        if limits.disk is not None:
            self._set("io.max", _io_max(limits.disk))

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
        memory = self.path / "memory.stat"
        cpu_us, throttled_us = read_fields(self.path / "cpu.stat", "usage_usec", "throttled_usec")
        return Usage(
            memory_bytes=read_number(self.path / "memory.current"),
            private_bytes=sum(read_fields(memory, "anon", "shmem")),
            cpu_us=cpu_us,
            throttled_us=throttled_us,
            oom_kills=read_field(self.path / "memory.events", "oom_kill"),
            pids=read_number(self.path / "pids.current"),
            read_bytes=sum_fields(self.path / "io.stat", "rbytes="),
            written_bytes=sum_fields(self.path / "io.stat", "wbytes="),
            forks_refused=sum_below(self.path, "pids.events", "max"),
        )

    def cpu_us(self) -> int:
        return read_field(self.path / "cpu.stat", "usage_usec")

    def pids(self) -> tuple[int, ...]:
        return read_pids_below(self.path)

    def kill(self) -> None:
        write_if_there(self.path / "cpu.idle", "0")  # a busy machine leaves idle groups no time to end in
        write_if_there(self.path / "cpu.max", f"max {PERIOD_US}")
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
    """`<mount>/<name>.<group>`, with the controllers handed down to the groups where they exist."""

    def __init__(self, mount: Path, name: str) -> None:
        self._mount = mount
        self._prefix = f"{name}."
        self._available = set[str]()
        with contextlib.suppress(OSError):
            self._available = set((mount / "cgroup.controllers").read_text().split())

    @property
    def limits(self) -> bool:
        return {"memory", "cpu"} <= self._available

    @property
    def squeezes(self) -> bool:
        # memory.reclaim came with 5.19; only a group that exists shows whether it is there.
        there = self._groups()[:1]
        return "memory" in self._available and all((path / "memory.reclaim").exists() for path in there)

    @property
    def gathers(self) -> bool:
        return False  # who moves leaves its memory to the group that it comes from

    def create(self, name: str) -> V2Group:
        group = self.open(name)
        try:
            self._enable()
            group.path.mkdir(exist_ok=True)
        except OSError as error:
            raise CgroupError(f"{group.path}: {error.strerror}") from error
        return group

    def open(self, name: str) -> V2Group:
        return V2Group(self._mount / f"{self._prefix}{name}", name)

    def names(self) -> tuple[str, ...]:
        return tuple(path.name.removeprefix(self._prefix) for path in self._groups())

    def remove(self) -> bool:
        removed = [remove_directory(path) for path in self._groups()]
        return all(removed)

    def _groups(self) -> list[Path]:
        return groups_of([self._mount], self._prefix)

    def _enable(self) -> None:
        wanted = " ".join(f"+{name}" for name in CONTROLLERS if name in self._available)
        if wanted:
            write_if_there(self._mount / "cgroup.subtree_control", wanted)


def _io_max(disk: DiskLimits) -> str:
    read, write = (
        f"rbps={disk.read_bytes_per_s} riops={disk.read_ops_per_s}",
        f"wbps={disk.write_bytes_per_s} wiops={disk.write_ops_per_s}",
    )
    return f"{disk.device} {read} {write}"


def _weight(cpu_shares: int) -> str:
    return str(min(_WEIGHT_MAX, max(1, cpu_shares * _WEIGHT_DEFAULT // _SHARES_DEFAULT)))
