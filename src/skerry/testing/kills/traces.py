"""What the machine holds of a node, by kind, found without asking the node: names in sets, to be compared."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

Traces = dict[str, frozenset[str]]
CACHE = "node/microvm/templates/"  # of disks that may be gone; kept within a limit of its own
KINDS = ("process", "mount", "group", "table", "device", "socket", "loop", "file")
_GROUPS = Path("/sys/fs/cgroup")


def take(root: Path, tag: str, foreign: frozenset[str] = frozenset()) -> Traces:
    """Of this process's namespaces and descendants; `root` holds the node's files, `tag` names its groups.

    `foreign`: mounts of others, as `mount_ids` gave them (their places may get other names meanwhile).
    """
    return {
        "process": frozenset(f"{pid} {_command(pid)}" for pid in descendants(os.getpid())),
        "mount": frozenset(name for number, name in _mounts() if number not in foreign),
        "group": frozenset(_groups(tag)),
        "table": frozenset(_said("nft", "list", "tables")),
        "device": frozenset(line.partition(":")[0].strip() for line in _lines("/proc/self/net/dev")[2:]),
        "socket": frozenset(_sockets()),
        "loop": frozenset(_loops(root)),
        "file": frozenset(name for path in root.rglob("*") if not (name := str(path.relative_to(root))).startswith(CACHE)),
    }


def left(before: Traces, now: Traces) -> dict[str, list[str]]:
    """What there is now and was not before, by kind."""
    return {kind: sorted(names - before[kind]) for kind, names in now.items() if names - before[kind]}


def descendants(pid: int) -> list[int]:
    """Those that have not ended; of this process, which takes up the orphans below it."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state not in "ZX":
                    parents.setdefault(int(parent), []).append(int(entry.name))
    found: list[int] = []
    ahead = [pid]
    while ahead:
        children = parents.get(ahead.pop(), [])
        found += children
        ahead += children
    return found


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:120]
    return ""


def mount_ids() -> frozenset[str]:
    """Of all that are there now."""
    return frozenset(number for number, _ in _mounts())


def _mounts() -> Iterator[tuple[str, str]]:
    for line in _lines("/proc/self/mountinfo"):
        words = line.split(" ")
        yield words[0], f"{words[4]} {words[words.index('-') + 1]}"


def _groups(tag: str) -> Iterator[str]:
    for tree in (*_GROUPS.glob(f"skerry-{tag}*"), *_GROUPS.glob(f"*/skerry-{tag}*")):  # old hierarchies: side by side
        yield str(tree)
        yield from (place for place, _, _ in os.walk(tree))


def _sockets() -> Iterator[str]:
    for line in _lines("/proc/self/net/tcp")[1:]:
        _, local, _, state, *_ = line.split()
        if state == "0A":  # listening
            yield f"tcp {local}"
    for line in _lines("/proc/self/net/unix")[1:]:
        if len(words := line.split()) == 8:
            yield f"unix {words[7]}"


def _loops(root: Path) -> Iterator[str]:
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if (backing := path.read_text().strip()).startswith(str(root)):
                yield f"{path.parts[3]} {backing}"


def _said(*command: str) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()
