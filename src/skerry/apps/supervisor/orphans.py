"""The supervisor is the parent of every process that lost its own: it reaps them, so that none stays a zombie.

What a plane starts detached (instances, HAProxy) is adopted by the supervisor when the plane dies. The next plane
watches it by a pidfd, but only the parent can reap it.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36


class Orphans:
    """Reaps all children but those that somebody owns. One per process."""

    def __init__(self) -> None:
        self._owned: set[int] = set()
        self.reaped = 0

    def adopt(self) -> None:
        """From now on orphans of this process's descendants are its children. Needs the running loop."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self.reap)

    def own(self, pid: int) -> None:
        """Somebody waits for this child: leave it."""
        self._owned.add(pid)

    def disown(self, pid: int) -> None:
        self._owned.discard(pid)

    def reap(self) -> None:
        """Take the exit status of every orphan that has ended; returns at once."""
        for pid in children():
            if pid not in self._owned:
                with contextlib.suppress(ChildProcessError):
                    self.reaped += os.waitpid(pid, os.WNOHANG)[0] == pid


def children() -> tuple[int, ...]:
    """Pids of this process's children, zombies too."""
    try:
        lists = [path.read_text() for path in Path("/proc/self/task").glob("*/children")]
    except OSError:
        lists = []
    if lists:
        return tuple(sorted({int(pid) for text in lists for pid in text.split()}))
    return _children_by_parent()  # a kernel without CONFIG_PROC_CHILDREN


def _children_by_parent() -> tuple[int, ...]:
    me = os.getpid()
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                stat = (entry / "stat").read_bytes()
                if int(stat[stat.rindex(b")") + 2 :].split()[1]) == me:
                    found.append(int(entry.name))
    return tuple(sorted(found))
