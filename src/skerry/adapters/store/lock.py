"""One process per store: an exclusive lock that ends with its holder, however that ends."""

import fcntl
import os
from pathlib import Path

from skerry.adapters.files import FILE_MODE
from skerry.ports.store import Unavailable


class Locked(Unavailable):
    """Another process (or this one, already) has the store open. `pid` is its id, None if it cannot be told."""

    def __init__(self, path: Path, pid: int | None) -> None:
        super().__init__(f"{path} is in use by {'another process' if pid is None else f'process {pid}'}; stop that one first")
        self.pid = pid


class Lock:
    """Held from construction to `release` or the end of the process. Raises `Locked`, OSError.

    An flock belongs to the open file: the kernel drops it on kill -9, and programs started from here do not
    inherit it (the descriptor is close-on-exec). The file stays: removing it would let two processes hold
    locks on two files of one name.
    """

    def __init__(self, path: Path) -> None:
        lock_path = path.with_name(path.name + ".lock")
        self._descriptor: int | None = os.open(lock_path, os.O_RDWR | os.O_CREAT, FILE_MODE)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._descriptor, 32, 0)
            self.release()
            raise Locked(path, int(holder) if holder.isdigit() else None) from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
