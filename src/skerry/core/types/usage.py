"""What one instance uses now, as its node sees it, beside what it was promised and what it may have."""

from typing import Literal

from skerry.core.types.ids import InstanceId
from skerry.kit.record import Record

# How a process stands among those that want the CPU. "first": as any other. "later": whoever wakes up goes before it, and of a
# CPU that all want it gets little. "last": it runs where nobody else wants to.
Standing = Literal["first", "later", "last"]


class InstanceUsage(Record):
    """Counters (`cpu_us`, `throttled_us`, `oom_kills`) grow in the life of one process.

    `used_millicores` is over the last look of the node's market, None before the second one. `granted_millicores`: what it
    can count on, its limit where nothing holds it; `held` says why it is less, empty otherwise. `credit_us`: CPU time saved up.
    """

    instance: InstanceId
    used_millicores: int | None
    share_millicores: int
    granted_millicores: int
    limit_millicores: int
    credit_us: int
    held: str
    cpu_us: int
    throttled_us: int
    memory_bytes: int
    private_bytes: int
    memory_bytes_max: int
    pids: int
    oom_kills: int
