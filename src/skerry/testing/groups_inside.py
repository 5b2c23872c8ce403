"""The only program of a guest (see `skerry.testing.groups_guest`): control groups as the unified hierarchy has them.

It says on the console what holds: `holds NAME`, `fails NAME` after the trace, and `done` at the end.
"""

import ctypes
import os
import sys
import traceback
from pathlib import Path

from skerry.adapters.cgroup.probe import find_tree
from skerry.adapters.cgroup.v2 import V2Tree
from skerry.testing.contracts.groups import CHECKS

MOUNTS = (("proc", "/proc"), ("sysfs", "/sys"), ("cgroup2", "/sys/fs/cgroup"))
HOLDS, FAILS, DONE = "holds", "fails", "done"


def main() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    for kind, place in MOUNTS:
        Path(place).mkdir(exist_ok=True)
        if libc.mount(kind.encode(), place.encode(), kind.encode(), 0, None) != 0:
            raise OSError(ctypes.get_errno(), f"mount {place}")
    tree, problem = find_tree("skerry-guest")
    print(f"{os.uname().release} {type(tree).__name__} {problem}")
    assert isinstance(tree, V2Tree)
    assert tree.limits
    for check in CHECKS:
        try:
            check(tree)
            print(f"{HOLDS} {check.__name__}", flush=True)
        except Exception:
            print(traceback.format_exc(), flush=True)
            print(f"{FAILS} {check.__name__}", flush=True)
    print(DONE, flush=True)


if __name__ == "__main__":
    try:
        main()
    finally:
        sys.stdout.flush()  # the guest ends with its first process
