"""What an earlier supervisor left when it was killed: found again and removed; and the proof that nothing is left.

Planes end by themselves when their supervisor dies, but they can be killed with it. Whatever they started is found by
its record, by the tag in its environment, by its control group, or by its place under the data and run directories.
"""

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from skerry.adapters import fineturns, zram
from skerry.adapters.cgroup.base import CgroupError
from skerry.adapters.cgroup.probe import end_group, find_tree
from skerry.adapters.cgroup.v1 import ALL
from skerry.adapters.network.linux import leftovers as networks
from skerry.adapters.process.detached import attach, find_tagged, kill_tagged, names
from skerry.apps.config import checks_dir
from skerry.apps.node_programs import left_by
from skerry.apps.supervisor.layout import platform_tag, run_dir_of
from skerry.kit.hashing import stable_id
from skerry.kit.record import Record
from skerry.ports.network import NetworkError

PLANES_END_MS = 4000  # a plane whose supervisor was killed is busy shutting down: let it
NAMES_SHOWN = 3
_ESCAPE = re.compile(r"\\([0-7]{3})")


class Leftovers(Record):
    """What is there that should not be, in words."""

    processes: tuple[int, ...] = ()
    mounts: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    sockets: tuple[str, ...] = ()
    swap: tuple[str, ...] = ()
    switches: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        found = (self.processes, self.mounts, self.groups, self.sockets, self.swap, self.switches, self.networks)
        return any(found)

    def __str__(self) -> str:
        kinds: tuple[tuple[str, tuple[int | str, ...]], ...] = (
            ("processes", self.processes),
            ("mounts", self.mounts),
            ("control groups", self.groups),
            ("sockets", self.sockets),
            ("swap devices", self.swap),
            ("switches of the kernel", self.switches),
            ("network devices and tables", self.networks),
        )
        return "; ".join(_shown(kind, items) for kind, items in kinds if items)


def _shown(kind: str, items: tuple[int | str, ...]) -> str:
    """`12 processes (4711, 4712, …)`."""
    first = ", ".join(str(item) for item in items[:NAMES_SHOWN])
    return f"{len(items)} {kind} ({first}{', …' if len(items) > NAMES_SHOWN else ''})"


async def remove_leftovers(data: Path) -> Leftovers:
    """Remove all that an earlier run on `data` left; what could not be removed. Call it with the data lock held."""
    run = run_dir_of(data)
    await _end_planes(run / "planes")
    for tag in tags_of(data):
        await kill_tagged(tag)
        await _remove_groups(tag)
    with contextlib.suppress(zram.ZramError):  # reported as a leftover
        zram.remove_swap(swap_record(data))
    with contextlib.suppress(fineturns.FineTurnsError):  # reported as a leftover
        fineturns.give_back(turns_record(data))
    for node in _nodes_with_networks(data):
        with contextlib.suppress(NetworkError, OSError):  # reported as a leftover
            networks.remove(node, run / node.name)
    for mount in mounts_below(data, run, *_program_runs(data)):
        _unmount(mount)
    left = find_leftovers(data)
    if not left.mounts:  # never delete through a mount
        for path in (run, *_program_runs(data)):
            shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):
            run.parent.rmdir()  # if no other platform has its own there
        return find_leftovers(data)
    return left


def _sockets(run: Path) -> tuple[str, ...]:
    """What goes while this looks is not left: planes that were not killed may be ending by themselves."""
    found = (Path(place) / name for place, _, names in os.walk(run) for name in names)
    return tuple(str(path) for path in sorted(found) if path.is_socket())


def find_leftovers(data: Path) -> Leftovers:
    run = run_dir_of(data)
    tags = tags_of(data)
    return Leftovers(
        processes=tuple(sorted({pid for tag in tags for pid in find_tagged(tag)})),
        mounts=mounts_below(data, run, *_program_runs(data)),
        groups=tuple(f"{group_tree(tag)}.{name}" for tag in tags for name in _groups(tag)),
        sockets=_sockets(run),
        swap=("zram",) if swap_record(data).exists() else (),
        switches=("HRTICK",) if turns_record(data).exists() else (),
        networks=tuple(found for node in _nodes_with_networks(data) for found in networks.find(node, run / node.name)),
    )


def tags_of(data: Path) -> tuple[str, ...]:
    """The platform's own, those of every site and node that ever had a directory in `data`, and that of control's checks."""
    owners = [checks_dir(data / "control"), *(path for kind in ("sites", "nodes") for path in sorted((data / kind).glob("*")))]
    programs = [tag for node in _nodes_with_programs(data) for tag in left_by(node).tags]
    return (platform_tag(data), *(stable_id(str(path), length=8) for path in owners), *programs)


def _nodes_with_programs(data: Path) -> tuple[Path, ...]:
    """Directories of nodes that could ever run programs."""
    return tuple(path.parent for path in sorted((data / "nodes").glob("*/programs")))


def _program_runs(data: Path) -> tuple[Path, ...]:
    return tuple(path for node in _nodes_with_programs(data) for path in left_by(node).runs)


def _nodes_with_networks(data: Path) -> tuple[Path, ...]:
    """Directories of nodes that ever ran programs; the others are not worth the time that looking takes."""
    return tuple(path.parent for path in sorted((data / "nodes").glob("*/network")))


def swap_record(data: Path) -> Path:
    """What says that the platform made swap on zram, see `skerry.adapters.zram`."""
    return data / "zram.json"


def turns_record(data: Path) -> Path:
    """What says that the platform switched how turns end, see `skerry.adapters.fineturns`."""
    return data / "fineturns.json"


def group_tree(tag: str) -> str:
    return f"skerry-{tag}"


def mounts_below(*places: Path) -> tuple[str, ...]:
    """Mount points under any of the places, the deepest first."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ()
    points = [Path(_ESCAPE.sub(lambda found: chr(int(found.group(1), 8)), line.split(" ")[4])) for line in lines]
    found = [str(point) for point in points if any(point.is_relative_to(place) for place in places)]
    return tuple(sorted(found, key=lambda point: (-point.count("/"), point)))


def _unmount(place: str) -> None:
    # In the loop's own thread: a child of another thread could be reaped by the loop before it is waited for.
    subprocess.run(["umount", "--lazy", place], check=False, capture_output=True)


async def _end_planes(records: Path) -> None:
    """Wait for planes that shut down by themselves, then kill."""
    found = [process for name in names(records) if (process := attach(name, records=records)) is not None]
    if found:
        waits = [asyncio.create_task(process.wait()) for process in found]
        await asyncio.wait(waits, timeout=PLANES_END_MS / 1000)
        for wait in waits:
            wait.cancel()
    for process in found:
        await process.stop(grace_ms=0)


async def _remove_groups(tag: str) -> None:
    tree, _ = find_tree(group_tree(tag), controllers=ALL)
    if tree is None:
        return
    for name in tree.names():
        with contextlib.suppress(CgroupError):  # reported as a leftover
            await end_group(tree, name)
    tree.remove()


def _groups(tag: str) -> tuple[str, ...]:
    """Those of one owner."""
    tree, _ = find_tree(group_tree(tag), controllers=ALL)
    return tree.names() if tree is not None else ()
