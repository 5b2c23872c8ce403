"""The TCP ports of a platform's cities that apps may have: which there are, and which one an app gets."""

import re
from collections.abc import Collection, Iterator
from itertools import pairwise

from skerry.core.types.public_port import PortRange

RANGES_MAX, PORTS_MAX = 32, 10_000  # every port in use is a listener in every city
_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")


def parse_ports(text: str) -> tuple[PortRange, ...]:
    """`5432,30000-30999`, in ascending order; empty: none. Raises `ValueError` with what is wrong."""
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if len(parts) > RANGES_MAX:
        raise ValueError(f"there are {len(parts)} ranges; at most {RANGES_MAX} are allowed")
    found = tuple(sorted((_parse(part) for part in parts), key=lambda one: one.first))
    for before, after in pairwise(found):
        if after.first <= before.last:
            raise ValueError(f"{shown((before,))} and {shown((after,))} overlap")
    if sum(one.last - one.first + 1 for one in found) > PORTS_MAX:
        raise ValueError(f"there are more than {PORTS_MAX:,} ports in it")
    return found


def _parse(part: str) -> PortRange:
    match = _RANGE.fullmatch(part)
    if match is None:
        raise ValueError(f"{part[:40]!r} is neither a port nor a range of ports like 30000-30999")
    first, last = int(match[1]), int(match[2] or match[1])
    if not 1 <= first <= last <= 65_535:
        raise ValueError(f"{part[:40]} is not within 1 to 65535, or ends before it begins")
    return PortRange(first=first, last=last)


def shown(ranges: tuple[PortRange, ...]) -> str:
    """As `parse_ports` reads it."""
    return ",".join(str(one.first) if one.first == one.last else f"{one.first}-{one.last}" for one in ranges)


def holds(ranges: tuple[PortRange, ...], port: int) -> bool:
    return any(one.first <= port <= one.last for one in ranges)


def free_port(ranges: tuple[PortRange, ...], taken: Collection[int], *, start: int) -> int | None:
    """The first free one from the `start`-th on, around once; None: all are taken.

    With an app's stable hash as `start` it gets the port again that it had, and seldom one that a stranger just gave up.
    """
    ports = [port for one in ranges for port in range(one.first, one.last + 1)]
    return next((port for port in _turned(ports, start) if port not in taken), None)


def _turned(ports: list[int], start: int) -> Iterator[int]:
    if ports:
        offset = start % len(ports)
        yield from ports[offset:]
        yield from ports[:offset]
