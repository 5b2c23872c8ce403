"""What the v1 and the v2 backend share: the records, the protocol, and small file helpers.

A `Tree` is the groups of one owner (a node's agent, a controller), one per process: `<tree>.<name>`, side by side at the top
of each hierarchy. Its name derives from the owner's data directory, so the next run finds what a killed one left.

Side by side, since the scheduler compares groups at the place where their paths part: below one directory of their own the
greedy would spend what that directory is due, and the modest beside them would wait for it, however little they weigh.
"""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from skerry.core.types.usage import Standing
from skerry.kit.record import Record

# Weight that those who come later keep: so much that idle ones do not come near it, so little that who wakes up is never found to
# have had more than its part already, and made to wait.
LATER_PART = 16
MOVE_ROUNDS_MAX = 4  # of looking for threads that were started meanwhile
SMALL_BYTES = 16_384  # of files of some lines: the longest, memory.stat, has 3,000
KILL_S_MAX = 30.0  # a killed process is gone in a few ms, unless the disk hangs or a busy machine lets nobody end


class CgroupError(Exception):
    """The kernel refuses; the text names the file."""


class DiskLimits(Record):
    """How fast one disk may be read and written. `device`: the whole disk as "major:minor", see `disk_of`."""

    device: str
    read_bytes_per_s: int
    write_bytes_per_s: int
    read_ops_per_s: int
    write_ops_per_s: int


class Limits(Record):
    """What one group may use. None: no limit. `cpu_shares` weighs it against its neighbours (1024 is a plain process).

    `cpu_standing`: who is "last" runs where nobody else wants the CPU, and whoever wakes up takes its place at once (Linux 5.15;
    before, it only has the least weight). Who comes "later" has a part of its weight. Both may have slices of another length
    (Linux 6.12): a long one comes after whoever wakes up with a shorter one; a short one ends soon, where the kernel looks.
    """

    memory_bytes: int | None = None
    cpu_millicores: int | None = None
    cpu_shares: int = 1024
    cpu_standing: Standing = "first"
    pids: int | None = None
    disk: DiskLimits | None = None


class Usage(Record):
    """What it uses now. Times, kills and bytes read and written only grow; compressed swap is in no group's memory.

    `private_bytes` is what cannot be read again from a file. `forks_refused`: how often its limit of processes was in the way.
    """

    memory_bytes: int = 0
    cpu_us: int = 0
    oom_kills: int = 0
    private_bytes: int = 0
    throttled_us: int = 0
    pids: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    forks_refused: int = 0


class Group(Protocol):
    """One process and what it starts, in groups within this one too.

    The process must be born in it: memory is charged where it was first touched.
    """

    @property
    def name(self) -> str: ...

    @property
    def join(self) -> tuple[str, ...]:
        """Files to which a process with one thread writes "0" to enter, before exec."""
        ...

    def limit(self, limits: Limits) -> None:
        """Raises `CgroupError`; limits that this kernel has no controller for are left out (see `Tree.limits`)."""
        ...

    def allow_swap(self, allowed: bool) -> None:
        """Awake groups may not swap, so that a memory limit is one; allowed for the moment of `squeeze`."""
        ...

    def squeeze(self) -> None:
        """Move what can be moved into swap. Blocks for 3 to 50 ms: call it in a thread."""
        ...

    def oom_event(self) -> int | None:
        """A descriptor that can be read (8 bytes) after the group ran out of memory, for where `Usage` cannot tell."""
        ...

    def freeze(self, frozen: bool) -> None:
        """Nothing in it runs while it is frozen. Raises `CgroupError`; needs the freezer (`ALL`) where hierarchies are old."""
        ...

    def usage(self) -> Usage: ...

    def cpu_us(self) -> int:
        """As in its usage, alone: one file or two, some 20 µs."""
        ...

    def pids(self) -> tuple[int, ...]: ...

    def kill(self) -> None:
        """SIGKILL to every process in it. Does not wait; call it again until `remove` succeeds, for what was being forked."""
        ...

    def remove(self) -> bool:
        """Remove it, which needs it to be empty: False when it is not yet. True when it is not there."""
        ...


class Tree(Protocol):
    """The groups of one owner."""

    @property
    def limits(self) -> bool:
        """Memory and CPU limits are enforced."""
        ...

    @property
    def squeezes(self) -> bool:
        """Memory of a group can be moved into swap (if there is any)."""
        ...

    @property
    def gathers(self) -> bool:
        """To the kernel all who yield are one group."""
        ...

    def create(self, name: str) -> Group: ...

    def open(self, name: str) -> Group:
        """A group that may or may not exist."""
        ...

    def names(self) -> tuple[str, ...]:
        """All groups that are there, in order."""
        ...

    def remove(self) -> bool:
        """Every group that is empty: whether none is left. Idempotent."""
        ...


def write(path: Path, value: str) -> None:
    """One `write`: the kernel answers it with an errno that buffered writes would hide."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, value.encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        raise CgroupError(f"{path} = {value}: {error.strerror}") from error


def write_if_there(path: Path, value: str) -> None:
    """For files that some kernels lack or some values are refused by (already lower, say)."""
    if path.exists():
        with contextlib.suppress(CgroupError):
            write(path, value)


def disk_of(path: Path, *, devices: Path = Path("/sys/dev/block")) -> str | None:
    """The whole disk that a file lies on; None where that is none, but memory, a network or several disks."""
    number = path.stat().st_dev
    place = devices / f"{os.major(number)}:{os.minor(number)}"
    if not place.exists():
        return None
    disk = place.resolve().parent if (place / "partition").exists() else place
    return (disk / "dev").read_text().strip()


def weight_of(limits: Limits) -> int:
    """Its shares, as long as it is not idle."""
    return max(2, limits.cpu_shares // LATER_PART) if limits.cpu_standing == "later" else limits.cpu_shares


def write_weight(file: Path, idle_file: Path, *, idle: bool, value: str, least: str) -> None:
    """`value` in `file`; the kernel takes no weight while a group is idle, and gives it the default one afterwards."""
    if idle_file.exists():
        write(idle_file, "1" if idle else "0")
        if idle:
            return
    write(file, least if idle else value)


def read_small(path: Path) -> str:
    """A file of the kernel's; a third of what it costs with buffers. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, SMALL_BYTES).decode()
    finally:
        os.close(descriptor)


def read_number(path: Path) -> int:
    try:
        return int(read_small(path))
    except (OSError, ValueError):
        return 0


def read_fields(path: Path, *fields: str) -> tuple[int, ...]:
    """The numbers behind `fields` in a file of "name number" lines; 0 if absent."""
    found = dict[str, int]()
    with contextlib.suppress(OSError, ValueError):
        for line in read_small(path).splitlines():
            name, _, number = line.partition(" ")
            if name in fields:
                found[name] = int(number)
    return tuple(found.get(field, 0) for field in fields)


def read_field(path: Path, field: str) -> int:
    return read_fields(path, field)[0]


def sum_below(path: Path, file: str, field: str) -> int:
    """Of a group and of those in it: some counters are only those of the very group in which it happened."""
    return sum(read_field(place / file, field) for place in with_inner(path))


def sum_fields(path: Path, field: str) -> int:
    """Of a file of "device field number" lines, or "device a=1 b=2" with `field` as "a="; 0 if absent."""
    total = 0
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            words = line.split(" ")
            if len(words) == 3 and words[1] == field:
                total += int(words[2])
            total += sum(int(word.removeprefix(field)) for word in words[1:] if field.endswith("=") and word.startswith(field))
    return total


def read_pids(path: Path) -> tuple[int, ...]:
    try:
        return tuple(int(line) for line in path.read_text().split())
    except OSError:
        return ()


def read_pids_below(path: Path) -> tuple[int, ...]:
    """Of a group and of those that a container runtime made in it."""
    return tuple(pid for place in with_inner(path) for pid in read_pids(place / "cgroup.procs"))


def read_threads_below(path: Path, file: str) -> tuple[int, ...]:
    """As `read_pids_below`, of threads. `file`: where they are listed."""
    return tuple(thread for place in with_inner(path) for thread in read_pids(place / file))


def move_threads_below(source: Path, target: Path) -> None:
    """Of a group of the old hierarchies and of those in it, each to the one of its name, or to `target` where there is none."""
    for place in with_inner(source):
        same = target / place.relative_to(source)
        _move_threads(place, same if same.is_dir() else target)


def _move_threads(source: Path, target: Path) -> None:
    """One by one, a fraction of a ms each; again and again until no new one is there."""
    for _ in range(MOVE_ROUNDS_MAX):
        threads = read_pids(source / "tasks")
        if not threads:
            return
        for thread in threads:
            with contextlib.suppress(CgroupError):  # ended meanwhile
                write(target / "tasks", str(thread))


def groups_of(places: Iterable[Path], prefix: str) -> list[Path]:
    """The directories whose name begins so, in order; each place once. The names come first: there may be many others."""
    found: set[Path] = set()
    for place in set(places):
        with contextlib.suppress(OSError):
            found |= {path for path in place.iterdir() if path.name.startswith(prefix) and path.is_dir()}
    return sorted(found)


def with_inner(path: Path) -> tuple[Path, ...]:
    """A group, and those that a container runtime made in it."""
    return (path, *_inner(path))


def _inner(path: Path) -> list[Path]:
    with contextlib.suppress(OSError), os.scandir(path) as found:
        return [path / entry.name for entry in found if entry.is_dir(follow_symlinks=False)]
    return []


def remove_directory(path: Path) -> bool:
    for place in _inner(path):
        remove_directory(place)
    try:
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
