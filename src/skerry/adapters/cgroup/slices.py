"""How long a thread's turn on a CPU is. It decides who waits for whom: who wakes up with a shorter one goes first (Linux 6.12).

Threads and processes that one starts later have the same. Kernels before take the number and do nothing with it.
"""

import contextlib
import ctypes
import os
import struct
from collections.abc import Callable, Iterable

LONG_NS = 100_000_000  # the most that the kernel takes; its own default is 0.7 to 2.8 ms
SHORT_NS = 400_000  # as long as whoever wakes up may have to wait; much less, and changing from one to the other costs too much
DEFAULT_NS = 0
ROUNDS_MAX = 4  # of looking for threads that were started meanwhile

_NUMBERS = {"x86_64": (314, 315), "aarch64": (274, 275)}  # sched_setattr, sched_getattr
_FORM = "=IIQiIQQQII"  # struct sched_attr: size, policy, flags, nice, priority, runtime, deadline, period, least and most use
_BYTES, _RUNTIME = struct.calcsize(_FORM), 5
_ORDINARY = (0, 3)  # SCHED_OTHER, SCHED_BATCH: the others have no slices
_libc = ctypes.CDLL(None, use_errno=True)


def set_slices(threads: Callable[[], Iterable[int]], slice_ns: int) -> None:
    """`threads` lists ids, again and again until no new one is there. The default is for those whose slices were set here."""
    done = set[int]()
    for _ in range(ROUNDS_MAX):
        new = set(threads()) - done
        if not new:
            return
        for thread in sorted(new):
            with contextlib.suppress(OSError):  # ended meanwhile, or not ours to change
                _set(thread, slice_ns)
        done |= new


def slice_ns(thread: int) -> int | None:
    """None where it cannot be asked; 0 where the kernel has none."""
    with contextlib.suppress(OSError):
        return _get(thread)[_RUNTIME]
    return None


def _set(thread: int, wanted_ns: int) -> None:
    attributes = _get(thread)
    is_ours = attributes[_RUNTIME] in (LONG_NS, SHORT_NS)
    if attributes[1] not in _ORDINARY or attributes[_RUNTIME] == wanted_ns or (wanted_ns == DEFAULT_NS and not is_ours):
        return
    attributes[_RUNTIME] = wanted_ns
    packed = struct.pack(_FORM, *attributes)
    _call(0, thread, packed, 0)


def _get(thread: int) -> list[int]:
    buffer = ctypes.create_string_buffer(_BYTES)
    _call(1, thread, buffer, _BYTES, 0)
    return list(struct.unpack(_FORM, buffer.raw))


def _call(which: int, thread: int, *arguments: object) -> None:
    numbers = _NUMBERS.get(os.uname().machine)
    if numbers is None:
        raise OSError(f"slices are not known on {os.uname().machine}")
    if _libc.syscall(numbers[which], thread, *arguments) < 0:
        raise OSError(ctypes.get_errno(), f"sched_attr of {thread}")
