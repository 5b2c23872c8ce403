"""The old hierarchies, one per controller. The bare unified tree that may stand beside them is left alone.

A process that is about to become the group's enters by itself, alone (file `tasks`): to move a whole process, or any
into the unified tree, the kernel first waits 7 ms for all CPUs, with a user's request waiting too. What the unified tree
would give, `cgroup.kill`, is had by killing whatever is listed until nothing is; a sandbox dies with its first process.

Since the CPU controller has a hierarchy of its own, the threads of those who yield can be moved there without their memory: into
one idle group for all of them, `<tree>~yields`. Whoever wakes up meets one that is owed something then, and not each of them.
"""

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
    move_threads_below,
    read_field,
    read_fields,
    read_number,
    read_pids_below,
    read_threads_below,
    remove_directory,
    sum_below,
    sum_fields,
    weight_of,
    with_inner,
    write,
    write_if_there,
    write_weight,
)
from skerry.adapters.cgroup.slices import DEFAULT_NS, LONG_NS, set_slices
from skerry.adapters.cgroup.v2 import PERIOD_US

CONTROLLERS = ("memory", "cpu", "cpuacct", "pids")
ALL = (*CONTROLLERS, "cpuset", "devices", "freezer", "blkio", "name=systemd")  # where container runtimes make groups
SHARES_LEAST = "2"
UNLIMITED, QUOTA_US_LEAST = -1, 1_000
YIELDING = "~yields"
SWAPPINESS_SQUEEZE = 100  # take anonymous pages as readily as file pages, and keep the shared binary in memory


class V1Group:
    """One directory of the same name in each hierarchy. `paths` by controller; `aside`: where its threads are while it yields."""

    def __init__(self, name: str, paths: dict[str, Path], aside: Path | None) -> None:
        self._name = name
        self._paths = paths
        self._aside = aside

    @property
    def name(self) -> str:
        return self._name

    @property
    def join(self) -> tuple[str, ...]:
        return tuple(str(path / "tasks") for path in self._directories())

    def limit(self, limits: Limits) -> None:
        memory = UNLIMITED if limits.memory_bytes is None else limits.memory_bytes
        self._set("memory", "memory.limit_in_bytes", str(memory))
        self._allow(limits.cpu_millicores)
        self._weigh(limits)
        self._set("pids", "pids.max", "max" if limits.pids is None else str(limits.pids))
        if limits.disk is not None:
            self._limit_disk(limits.disk)

    def allow_swap(self, allowed: bool) -> None:
        """Of the groups within it too: each has a number of its own."""
        for path in with_inner(self._file("memory", ".")):
            write_if_there(path / "memory.swappiness", str(SWAPPINESS_SQUEEZE if allowed else 0))

    def squeeze(self) -> None:
        if "memory" in self._paths:
            write_if_there(self._paths["memory"] / "memory.force_empty", "1")

    def oom_event(self) -> int | None:
        """The old counter is that of the very group in which the killed process was, and goes with it."""
        memory = self._paths.get("memory")
        if memory is None:
            return None
        event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            control = os.open(memory / "memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
            try:
                write(memory / "cgroup.event_control", f"{event} {control}")
            finally:
                os.close(control)
        except (OSError, CgroupError):
            os.close(event)
            return None
        return event

    def freeze(self, frozen: bool) -> None:
        self._set("freezer", "freezer.state", "FROZEN" if frozen else "THAWED")

    def usage(self) -> Usage:
        memory, blocks = self._file("memory", "memory.stat"), self._file("blkio", "blkio.throttle.io_service_bytes")
        return Usage(
            memory_bytes=read_number(self._file("memory", "memory.usage_in_bytes")),
            private_bytes=sum(read_fields(memory, "total_rss", "total_shmem")),
            oom_kills=sum_below(self._file("memory", "."), "memory.oom_control", "oom_kill"),
            cpu_us=self.cpu_us(),
            throttled_us=sum(read_field(place / "cpu.stat", "throttled_time") for place in self._cpu_places()) // 1000,
            pids=read_number(self._file("pids", "pids.current")),
            read_bytes=sum_fields(blocks, "Read"),
            written_bytes=sum_fields(blocks, "Write"),
            forks_refused=sum_below(self._file("pids", "."), "pids.events", "max"),
        )

    def cpu_us(self) -> int:
        return sum(read_number(place / "cpuacct.usage") for place in self._cpuacct_places()) // 1000

    def pids(self) -> tuple[int, ...]:
        places = {*self._directories(), *self._cpu_places()}
        return tuple(sorted({pid for path in places for pid in read_pids_below(path)}))

    def kill(self) -> None:
        self._bring_back()
        for place in self._cpu_places():
            write_if_there(place / "cpu.idle", "0")  # a busy machine leaves idle groups no time to end in
            write_if_there(place / "cpu.cfs_quota_us", str(UNLIMITED))
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if "freezer" in self._paths:
            write_if_there(self._file("freezer", "freezer.state"), "THAWED")  # what is frozen does not even die

    def remove(self) -> bool:
        """Last where `V1Tree.names` finds it."""
        if self._aside is not None and not remove_directory(self._aside):
            return False
        if self._aside is not None:
            with contextlib.suppress(OSError):  # others yield, or nobody ever did
                self._aside.parent.rmdir()
        removed = [remove_directory(path) for path in self._directories()]
        return all(removed)

    def _limit_disk(self, disk: DiskLimits) -> None:
        """What is written through the page cache is written by the kernel itself, later: no group's limit holds for it."""
        self._set("blkio", "blkio.throttle.read_bps_device", f"{disk.device} {disk.read_bytes_per_s}")
        self._set("blkio", "blkio.throttle.write_bps_device", f"{disk.device} {disk.write_bytes_per_s}")
        self._set("blkio", "blkio.throttle.read_iops_device", f"{disk.device} {disk.read_ops_per_s}")
        self._set("blkio", "blkio.throttle.write_iops_device", f"{disk.device} {disk.write_ops_per_s}")

    def _allow(self, cpu_millicores: int | None) -> None:
        quota = UNLIMITED if cpu_millicores is None else max(QUOTA_US_LEAST, cpu_millicores * PERIOD_US // 1000)
        for place in self._cpu_places():
            write(place / "cpu.cfs_period_us", str(PERIOD_US))
            write(place / "cpu.cfs_quota_us", str(quota))

    def _weigh(self, limits: Limits) -> None:
        if "cpu" in self._paths:
            file, idle_file = self._file("cpu", "cpu.shares"), self._file("cpu", "cpu.idle")
            idle = limits.cpu_standing == "last"
            if not idle:
                self._bring_back()
            write_weight(file, idle_file, idle=idle, value=str(weight_of(limits)), least=SHARES_LEAST)
            slice_ns = LONG_NS if limits.cpu_standing == "later" else DEFAULT_NS
            set_slices(lambda: read_threads_below(self._paths["cpu"], "tasks"), slice_ns)
            if idle and self._aside is not None and idle_file.exists():
                self._set_aside(self._aside, limits)

    def _set_aside(self, aside: Path, limits: Limits) -> None:
        """What is started from outside meanwhile (another program in a container) yields where it is."""
        home = self._paths["cpu"]
        try:
            for place in (aside.parent, *(aside / path.relative_to(home) for path in with_inner(home))):
                place.mkdir(exist_ok=True)
        except OSError as error:
            raise CgroupError(f"{error.filename}: {error.strerror}") from error
        write(aside.parent / "cpu.idle", "1")
        write(aside / "cpu.shares", str(limits.cpu_shares))
        self._allow(limits.cpu_millicores)
        move_threads_below(home, aside)

    def _bring_back(self) -> None:
        if self._aside is not None and self._aside.exists():
            move_threads_below(self._aside, self._paths["cpu"])

    def _cpu_places(self) -> list[Path]:
        """Those whose files say what it may: what is aside as well, from the first time that it was."""
        if "cpu" not in self._paths:
            return []
        aside = [self._aside] if self._aside is not None and self._aside.exists() else []
        return [self._paths["cpu"], *aside]

    def _cpuacct_places(self) -> list[Path]:
        """Where CPU time is counted: aside too, if both controllers are mounted together."""
        together = self._paths.get("cpuacct") == self._paths.get("cpu")
        return self._cpu_places() if together else [self._file("cpuacct", ".")]

    def _file(self, controller: str, name: str) -> Path:
        """A path at which nothing is, where there is no such controller."""
        return self._paths[controller] / name if controller in self._paths else Path("/nonexistent")

    def _set(self, controller: str, file: str, value: str) -> None:
        if controller in self._paths:
            write(self._paths[controller] / file, value)

    def _directories(self) -> list[Path]:
        """Each once: controllers can be mounted together."""
        return sorted(set(self._paths.values()))


class V1Tree:
    """`<mount>/<name>.<group>` in every hierarchy that is there. `mounts` by controller."""

    def __init__(self, mounts: dict[str, Path], name: str) -> None:
        self._mounts = mounts
        self._prefix = f"{name}."
        self._yielding = mounts["cpu"] / f"{name}{YIELDING}" if "cpu" in mounts else None

    @property
    def limits(self) -> bool:
        return {"memory", "cpu"} <= self._mounts.keys()

    @property
    def squeezes(self) -> bool:
        return "memory" in self._mounts

    @property
    def gathers(self) -> bool:
        return self._yielding is not None

    def create(self, name: str) -> V1Group:
        group = self.open(name)
        try:
            for mount in set(self._mounts.values()):
                (mount / f"{self._prefix}{name}").mkdir(exist_ok=True)
        except OSError as error:
            raise CgroupError(f"{error.filename}: {error.strerror}") from error
        return group

    def open(self, name: str) -> V1Group:
        paths = {controller: mount / f"{self._prefix}{name}" for controller, mount in self._mounts.items()}
        return V1Group(name, paths, self._yielding / name if self._yielding is not None else None)

    def names(self) -> tuple[str, ...]:
        return tuple(sorted({path.name.removeprefix(self._prefix) for path in self._groups()}))

    def remove(self) -> bool:
        yielding = [self._yielding] if self._yielding is not None else []
        removed = [remove_directory(path) for path in (*yielding, *self._groups())]
        return all(removed)

    def _groups(self) -> list[Path]:
        return groups_of(self._mounts.values(), self._prefix)
