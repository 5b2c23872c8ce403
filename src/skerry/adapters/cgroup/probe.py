"""Which hierarchies this machine has, and whether this process may make groups in them."""

import asyncio
import os
import time
from collections.abc import Collection
from pathlib import Path

from skerry.adapters.cgroup.base import KILL_S_MAX, CgroupError, Tree
from skerry.adapters.cgroup.v1 import CONTROLLERS, V1Tree
from skerry.adapters.cgroup.v2 import V2Tree

MOUNTS = Path("/proc/self/mounts")


def find_tree(name: str, *, mounts: Path = MOUNTS, controllers: Collection[str] = CONTROLLERS) -> tuple[Tree | None, str]:
    """The tree for `name` and "", or None and the reason, for people. `controllers` are of the old hierarchies."""
    old, unified = _hierarchies(mounts, controllers)
    if old:
        tree: Tree = V1Tree(old, name)
        places = list(old.values())
    elif unified is not None:
        tree, places = V2Tree(unified, name), [unified]
    else:
        return None, "no control groups are mounted"
    unwritable = [str(path) for path in places if not os.access(path, os.W_OK)]
    if unwritable:
        return None, f"{unwritable[0]} is not writable: limits on instances need root"
    return tree, ""


async def end_group(tree: Tree, name: str) -> None:
    """Kill all processes of a group and remove it; safe to call twice, and for a group that is not there."""
    group, deadline, pause_ms = tree.open(name), time.monotonic() + KILL_S_MAX, 1
    while time.monotonic() < deadline:
        group.kill()
        if group.remove():
            return
        await asyncio.sleep(pause_ms / 1000)
        pause_ms = min(20, pause_ms + 1)
    raise CgroupError(f"group {name}: processes {group.pids()} do not end")


def hidden_unified(mounts: Path = MOUNTS) -> Path | None:
    """The unified tree beside old hierarchies, by which container runtimes are misled; None where all is of one kind."""
    old, unified = _hierarchies(mounts, CONTROLLERS)
    return unified if old else None


def _hierarchies(mounts: Path, controllers: Collection[str]) -> tuple[dict[str, Path], Path | None]:
    old: dict[str, Path] = {}
    unified: Path | None = None
    for line in mounts.read_text().splitlines():
        _, place, kind, options, *_ = line.split(" ")
        if kind == "cgroup2":
            unified = unified or Path(place)
        elif kind == "cgroup":
            old.update({name: Path(place) for name in options.split(",") if name in controllers})
    return old, unified
