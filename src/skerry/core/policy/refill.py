"""Gently: a place that comes back is open for a share of what it has, which grows with time.

It has cold caches and everything to start, and hundreds of apps would all come at once. What runs there is never sent away
for it, and what it was promised before it went is not held back.
"""

from collections.abc import Iterable, Mapping

from skerry.core.types.ids import NodeId
from skerry.core.types.place import Node
from skerry.core.types.resources import Resources
from skerry.kit.record import Record

ALL = 100


class Ramp(Record):
    """Open at once for `first_percent`, and for `step_percent` more every `step_ms`."""

    first_percent: int = 10
    step_percent: int = 10
    step_ms: int = 5_000

    def __post_init__(self) -> None:
        if not (0 < self.first_percent <= ALL and 0 < self.step_percent <= ALL and self.step_ms > 0):
            raise ValueError(f"a ramp grows from above 0 to {ALL}: {self}")


def open_percent(back_ms: int, now_ms: int, ramp: Ramp) -> int:
    """Of a place that is back since `back_ms`."""
    steps = max(0, now_ms - back_ms) // ramp.step_ms
    return min(ALL, ramp.first_percent + steps * ramp.step_percent)


def open_capacity(nodes: Iterable[Node], percents: Mapping[NodeId, int]) -> Resources:
    """What of the nodes may be used now; those that are not in `percents` are open altogether."""
    total = Resources()
    for node in nodes:
        percent = percents.get(node.id, ALL)
        total += Resources(
            cpu_millicores=node.capacity.cpu_millicores * percent // ALL,
            memory_mib=node.capacity.memory_mib * percent // ALL,
            disk_mib=node.capacity.disk_mib * percent // ALL,
        )
    return total


def held_back(others: Resources, own: Resources, *, full: Resources, opened: Resources) -> Resources:
    """What a place holds against an app that has `own` there: what others hold, and what is not open yet.

    `full` and `opened`: all that its nodes have, and what of that is open. The app keeps at least what it has.
    """
    room = full.less(others).or_less(opened.less(others).or_more(own))
    return full.less(room)
