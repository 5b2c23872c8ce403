"""Files that survive kill -9 and power loss: whole or not there, readable by their owner only."""

import fcntl
import os
from pathlib import Path

FILE_MODE = 0o600
DIRECTORY_MODE = 0o700


def make_private_directory(path: Path) -> None:
    """Make `path` and its parents; new ones belong to their owner alone and stay after power loss."""
    if path.is_dir():
        return
    make_private_directory(path.parent)
    path.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in `path` durable: a file is only as safe as the name that leads to it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """`os.write` until everything is written; raises OSError."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def replace_durably(path: Path, data: bytes, *, mode: int = FILE_MODE) -> None:
    """Write `path` whole: readers see the old content or the new one, and after the return the new one stays.

    Raises OSError, and then leaves the old content. What a kill in between leaves, `<name>.tmp`, is taken over by the
    next call. Calls for one path, of any thread or process, take turns.
    """
    temporary = path.with_name(path.name + ".tmp")
    descriptor = _open_locked(temporary, mode)
    try:
        os.ftruncate(descriptor, 0)
        write_all(descriptor, data)
        os.fchmod(descriptor, mode)  # one that was left may have another
        os.fsync(descriptor)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    sync_directory(path.parent)


def _open_locked(path: Path, mode: int) -> int:
    """A descriptor of the file at `path` that nobody else has locked: its last holder may just have moved it away."""
    while True:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, mode)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
