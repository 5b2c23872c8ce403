"""How full what processes have is: file systems, and their tables of open files."""

import os
import resource
from collections.abc import Iterable
from typing import NamedTuple

DESCRIPTORS_LEAST = 64  # a process that allows itself fewer does so on purpose, and is not in need


class Fill(NamedTuple):
    """Zeros: it cannot be told."""

    used: int = 0
    most: int = 0


def of_files(place: str) -> tuple[Fill, Fill]:
    """Of the file system there: its bytes, and its files (none where it makes them as it needs them)."""
    try:
        found = os.statvfs(place)
    except OSError:
        return Fill(), Fill()
    most = (found.f_blocks - found.f_bfree + found.f_bavail) * found.f_frsize
    return Fill(most - found.f_bavail * found.f_frsize, most), Fill(found.f_files - found.f_ffree, found.f_files)


def of_descriptors(pids: Iterable[int]) -> Fill:
    """Of the process that is nearest to its limit."""
    found = [one for pid in pids if (one := _of_process(pid)).most]
    return max(found, key=lambda one: one.used / one.most, default=Fill())


def _of_process(pid: int) -> Fill:
    place = f"/proc/{pid}/fd"
    try:
        # Linux 6.2 and later give the number as the size; before, it has to be counted.
        used = os.stat(place).st_size or len(os.listdir(place))  # noqa: PTH116, PTH208 - cheap: once a second for each process
        most, _ = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    except OSError:  # it has ended
        return Fill()
    return Fill(used, most) if most >= DESCRIPTORS_LEAST else Fill()
