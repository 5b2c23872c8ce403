"""A platform for a bench: the one of the tests, weighed as the bench itself is, and what benches ask of it."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from skerry.adapters.cgroup.base import Group, write_if_there
from skerry.adapters.cgroup.probe import find_tree
from skerry.kit.hashing import stable_id
from skerry.testing.platform import Platform

CPU_SHARES = 16384  # of each group that the platform makes: as many as the bench has


@contextlib.asynccontextmanager
async def open_platform(cities: str, *options: str) -> AsyncIterator[Platform]:
    async with Platform(cities=cities, options=options) as platform:
        weigh(platform)
        yield platform


def weigh(platform: Platform) -> None:
    """The platform's control groups are not below the bench's: give them its weight, lest other work slows them."""
    places = [platform.data, *(path for kind in ("sites", "nodes") for path in (platform.data / kind).iterdir())]
    for place in places:
        tree, _ = find_tree(f"skerry-{stable_id(str(place), length=8)}")
        for name in tree.names() if tree is not None else ():
            _weigh(tree.open(name))


def _weigh(group: Group) -> None:
    """As long as nobody gives it other limits."""
    for file in group.join:
        write_if_there(Path(file).parent / "cpu.shares", str(CPU_SHARES))
        write_if_there(Path(file).parent / "cpu.weight", str(CPU_SHARES * 100 // 1024))


async def sites_of(platform: Platform) -> list[str]:
    return [site["site"] for site in (await platform.status())["sites"]]


async def until_state(platform: Platform, state: str, count: int, *, limit_s: float, after_ms: int = 0) -> bool:
    """Whether so many instances all got into that state in time, since `after_ms` (what is shown may be of before)."""

    async def all_are() -> bool:
        found = await platform.instances()
        return len(found) == count and all(i["state"] == state and i["since_ms"] > after_ms for i in found)

    try:
        await platform.until(all_are, limit_s=limit_s)
    except AssertionError:
        return False
    return True
