"""How hard a node's processes have to wait, and how much memory is left.

Contract: all of it is cheap (a few small files), never raises, and 0 or None where the kernel does not tell. Waiting is counted
in µs that only grow, so that whoever asks twice knows what was waited in between.
"""

from typing import Protocol

from skerry.kit.record import Record


class Pressure(Record):
    """Of the whole machine: the CPU time that nobody used, its memory, and how long at least one task waited for some."""

    cpu_idle_us: int = 0
    memory_waited_us: int = 0
    memory_available_bytes: int = 0
    memory_total_bytes: int = 0


class Gauge(Protocol):
    def read(self) -> Pressure: ...

    def waited_us(self, pid: int) -> int | None:
        """How long a process and those that it started stood in the queue for a CPU, all threads together; None: not known.

        What has ended no longer counts, so that it can also fall.
        """
        ...
