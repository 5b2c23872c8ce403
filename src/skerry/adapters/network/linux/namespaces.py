"""Network namespaces that live as files: a mount keeps each, whoever runs in it.

Work inside one is done by a thread of its own, which ends there: a thread's namespace cannot be lost that way.
"""

import contextlib
import ctypes
import functools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_MS_BIND, _MNT_DETACH = 4096, 2
_OF_THREAD = Path("/proc/thread-self/ns/net")


def make(path: Path) -> None:
    """A new namespace at `path`, if there is none. Raises `OSError`."""
    if exists(path):
        return
    path.touch(mode=0o600)
    in_thread(lambda: _unshare_to(path))


def remove(path: Path) -> None:
    """Let go of it; it is gone when nothing runs in it. Idempotent."""
    while exists(path):
        _call("umount2", os.fsencode(path), _MNT_DETACH)
    path.unlink(missing_ok=True)


def exists(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return path.stat().st_dev == _OF_THREAD.stat().st_dev
    return False


def inside(path: Path, work: Callable[[], T]) -> T:
    """What `work` returns, done inside the namespace."""

    def enter() -> T:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _call("setns", descriptor, _CLONE_NEWNET)
        finally:
            os.close(descriptor)
        return work()

    return in_thread(enter)


def in_thread(work: Callable[[], T]) -> T:
    """Done by a new thread, waited for; raises what it raises."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # handed to the caller
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def leave() -> None:
    """The calling thread gets a new namespace, which ends with it."""
    _call("unshare", _CLONE_NEWNET)


def _unshare_to(path: Path) -> None:
    leave()
    _call("mount", os.fsencode(_OF_THREAD), os.fsencode(path), None, _MS_BIND, None)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc(), name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
