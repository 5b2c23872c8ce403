"""Snapshots of booted guests, from which machines start: a sealed memory file that all clones map, and a small state.

A template knows its image and size and nothing of any instance: it was taken before the guest was told a program. It is
made once (a boot), kept in memory for the next starts and on disk for the next agent. What has been sealed cannot be
changed by anybody, so a monitor that a guest has taken over cannot reach the memory of others through it.
"""

import asyncio
import contextlib
import fcntl
import os
import shutil
from collections import OrderedDict
from pathlib import Path

from skerry.adapters.sandbox.microvm.sparse import copy_sparse
from skerry.adapters.sandbox.qemu.command import Machine
from skerry.kit.hashing import stable_id
from skerry.kit.record import Record, decode, encode
from skerry.ports.sandbox import EngineUnavailable

MEMORY, STATE, ABOUT = "memory", "state", "about.json"
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class About(Record):
    """What a snapshot belongs to. `guest` and `monitor` name the versions that can load it."""

    machine: Machine
    guest: str
    monitor: str
    disk_bytes: int
    running: bool = False  # with a program in it


class Template:
    """Owns the descriptor of its memory."""

    def __init__(self, about: About, memory_fd: int, state: bytes) -> None:
        self.about, self.memory_fd, self.state = about, memory_fd, state

    @property
    def memory_mib(self) -> int:
        return -(-os.fstat(self.memory_fd).st_blocks * 512 >> 20)

    def memory(self) -> int:
        """The descriptor. Raises `EngineUnavailable` when it was let go meanwhile."""
        if self.memory_fd < 0:
            raise EngineUnavailable("the template of this machine was let go for others: too many images are started at once")
        return self.memory_fd

    def close(self) -> None:
        if self.memory_fd >= 0:
            os.close(self.memory_fd)
            self.memory_fd = -1


class Templates:
    """By key, the last used last. `mib_max`: those used longest ago are let go (running clones keep what they map)."""

    def __init__(self, directory: Path, *, mib_max: int) -> None:
        self._directory = directory
        self._mib_max = mib_max
        self._kept: OrderedDict[str, Template] = OrderedDict()
        self._locks: dict[str, asyncio.Lock] = {}

    def lock(self, key: str) -> asyncio.Lock:
        """Held while a template is made: the second who needs it waits for the first."""
        return self._locks.setdefault(key, asyncio.Lock())

    async def find(self, key: str, about: About) -> Template | None:
        """Out of memory or from disk; None: it has to be made."""
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
            return kept
        found = await asyncio.to_thread(_load, self._directory / key, about)
        if found is not None:
            os.utime(self._directory / key)  # last used
            self._keep(key, found)
        return found

    async def put(self, key: str, template: Template) -> None:
        seal(template.memory_fd)
        self._keep(key, template)
        with contextlib.suppress(OSError):  # without room on the disk the next agent makes it anew
            await asyncio.to_thread(save, self._directory, key, template)

    def tidy(self) -> None:
        """On disk: what a killed agent was writing goes, and the longest unused of those above the limit."""
        there = sorted(self._directory.iterdir(), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        bytes_left = self._mib_max << 20
        for path in there:
            whole = (path / ABOUT).is_file() and not path.name.startswith(".")
            bytes_left -= disk_usage(path) if whole else 0
            if not whole or bytes_left < 0:
                shutil.rmtree(path, ignore_errors=True)

    def close(self) -> None:
        for template in self._kept.values():
            template.close()
        self._kept.clear()

    def _keep(self, key: str, template: Template) -> None:
        self._kept[key] = template
        while len(self._kept) > 1 and sum(each.memory_mib for each in self._kept.values()) > self._mib_max:
            name, oldest = self._kept.popitem(last=False)
            oldest.close()
            shutil.rmtree(self._directory / name, ignore_errors=True)


def key_of(about: About, disk: str) -> str:
    """A name for the template that serves `about` with this disk (by path and change, as images are immutable)."""
    found = Path(disk).stat()
    return stable_id(
        encode(about).decode(), str(Path(disk).resolve()), str(found.st_size), str(found.st_mtime_ns), str(found.st_ino)
    )


def disk_usage(directory: Path) -> int:
    """Bytes that the files in it take."""
    return sum(path.stat().st_blocks * 512 for path in directory.iterdir())


def disk_bytes(disk: str) -> int:
    return Path(disk).stat().st_size


def snapshot_key(directory: Path) -> tuple[str, int]:
    """Names what is in the directory now. Raises `OSError` when nothing is."""
    return str(directory.resolve()), (directory / ABOUT).stat().st_mtime_ns


def new_memory(mib: int) -> int:
    descriptor = os.memfd_create("guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, mib << 20)
    return descriptor


def seal(memory_fd: int) -> None:
    """Nobody can write to it from here on. Needs the machine that wrote it to have ended."""
    fcntl.fcntl(memory_fd, fcntl.F_ADD_SEALS, _SEALS)


def save(directory: Path, name: str, template: Template) -> None:
    """As `directory/name`, whole or not at all. Raises `OSError`."""
    scratch = directory / f".{name}.tmp"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=0o700)
    try:
        write(scratch, template)
        shutil.rmtree(directory / name, ignore_errors=True)
        scratch.rename(directory / name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write(directory: Path, template: Template) -> None:
    """Its files into a directory that is there. Memory has holes where the guest never wrote."""
    target = os.open(directory / MEMORY, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        copy_sparse(template.memory_fd, target)
    finally:
        os.close(target)
    for name, content in ((STATE, template.state), (ABOUT, encode(template.about))):
        descriptor = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)


def read(directory: Path) -> Template:
    """A snapshot in a directory. Raises `EngineUnavailable` when it is none."""
    try:
        about = decode((directory / ABOUT).read_bytes(), About)
        state = (directory / STATE).read_bytes()
        source = os.open(directory / MEMORY, os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise EngineUnavailable(f"{directory} holds no snapshot of a microVM: {error}") from error
    memory = new_memory(about.machine.memory_mib)
    try:
        if os.fstat(source).st_size != about.machine.memory_mib << 20:
            raise EngineUnavailable(f"{directory / MEMORY} is not whole")
        copy_sparse(source, memory)
        seal(memory)
    except BaseException:
        os.close(memory)
        raise
    finally:
        os.close(source)
    return Template(about, memory, state)


def _load(directory: Path, about: About) -> Template | None:
    if not directory.is_dir():
        return None
    try:
        found = read(directory)
    except (EngineUnavailable, OSError):
        shutil.rmtree(directory, ignore_errors=True)
        return None
    if found.about == about:
        return found
    found.close()
    return None
