"""The only program of a guest (see `skerry.testing.groups_guest`): control groups as the unified hierarchy has them.

It says on the console what holds: `holds NAME`, `fails NAME` after the trace, and `done` at the end.
"""

import ctypes
import os
import sys
import traceback
from pathlib import Path

from skerry.adapters.cgroup.base import Tree
from skerry.adapters.cgroup.probe import find_tree
from skerry.adapters.cgroup.v2 import V2Tree
from skerry.testing.contracts.groups import CHECKS, a_disk_is_read_as_fast_as_allowed

MOUNTS = (("proc", "/proc"), ("sysfs", "/sys"), ("cgroup2", "/sys/fs/cgroup"), ("devtmpfs", "/dev"))
MODULES = Path("/modules")  # of a disk, in the order of their names
DISK = Path("/sys/class/block/vda/dev")
FINIT_MODULE = 313  # the system call's number on x86-64
HOLDS, FAILS, DONE = "holds", "fails", "done"


def mount_all() -> None:
    """What a program expects of a machine, where it is the first process."""
    libc = ctypes.CDLL(None, use_errno=True)
    for kind, place in MOUNTS:
        Path(place).mkdir(exist_ok=True)
        if libc.mount(kind.encode(), place.encode(), kind.encode(), 0, None) != 0:
            raise OSError(ctypes.get_errno(), f"mount {place}")


def main() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    mount_all()
    tree, problem = find_tree("skerry-guest")
    say(f"{os.uname().release} {type(tree).__name__} {problem}")
    assert isinstance(tree, V2Tree)
    assert tree.limits
    for path in sorted(MODULES.glob("*")):
        with path.open("rb") as module:
            if libc.syscall(FINIT_MODULE, module.fileno(), b"", 0) != 0:
                raise OSError(ctypes.get_errno(), f"module {path}")

    def a_disk(tree: Tree) -> None:
        a_disk_is_read_as_fast_as_allowed(tree, DISK.read_text().strip(), "/dev/vda")

    for check in (*CHECKS, a_disk):
        try:
            check(tree)
            say(f"{HOLDS} {check.__name__}")
        except Exception:
            say(f"{traceback.format_exc()}\n{FAILS} {check.__name__}")
    say(DONE)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
