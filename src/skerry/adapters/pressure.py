"""`skerry.ports.pressure` from /proc: pressure stall information (Linux 4.20), meminfo, schedstat."""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from skerry.ports.pressure import Pressure

THREADS_MAX = 64  # of an instance that are looked at
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_IDLE = re.compile(r"^cpu +\d+ \d+ \d+ (\d+) (\d+)", re.MULTILINE)
_TOTAL = re.compile(r"^some .*\btotal=(\d+)", re.MULTILINE)


class ProcGauge:
    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc

    def read(self) -> Pressure:
        memory = _read(self._proc / "meminfo")
        return Pressure(
            cpu_idle_us=self._idle_us(),
            memory_waited_us=self._memory_waited_us(),
            memory_available_bytes=_kib(memory, "MemAvailable"),
            memory_total_bytes=_kib(memory, "MemTotal"),
        )

    def waited_us(self, pid: int) -> int | None:
        total = None
        for task in islice(self._tasks(pid), THREADS_MAX):
            fields = _read(task / "schedstat").split()
            if len(fields) == 3 and fields[1].isdigit():  # on the CPU, in the queue, time slices
                total = (total or 0) + int(fields[1]) // 1000
        return total

    def _tasks(self, pid: int) -> Iterator[Path]:
        """Threads of a process, then of its descendants: a container's first process has all others below it."""
        pids = [pid]
        while pids:
            children: list[int] = []
            for one in pids:
                with contextlib.suppress(OSError):
                    for task in (self._proc / str(one) / "task").iterdir():
                        yield task
                        children += [int(word) for word in _read(task / "children").split()]
            pids = children

    def _idle_us(self) -> int:
        """Waiting for disks is idle too."""
        found = _IDLE.search(_read(self._proc / "stat"))
        return (int(found.group(1)) + int(found.group(2))) * 1_000_000 // TICKS_PER_S if found else 0

    def _memory_waited_us(self) -> int:
        found = _TOTAL.search(_read(self._proc / "pressure" / "memory"))
        return int(found.group(1)) if found else 0


@dataclass
class SimulatedGauge:
    """Set what it says."""

    pressure: Pressure = field(default_factory=Pressure)
    waited: dict[int, int] = field(default_factory=dict[int, int])

    def read(self) -> Pressure:
        return self.pressure

    def waited_us(self, pid: int) -> int | None:
        return self.waited.get(pid)


def _kib(text: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    return int(found.group(1)) << 10 if found else 0


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
