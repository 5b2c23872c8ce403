"""Run benches one after another: `python -m bench [NAME …] [OPTION …]`, all of them without a name; options go to each.

A bench with parts takes their names after its own: `python -m bench workers speed --rounds 3`.

As root each runs in a control group of its own with many CPU shares: Linux gives every session an equal share of the
machine (autogroup), so that a bench and what it starts would otherwise measure what else is running.
"""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

from skerry.adapters.cgroup.base import CgroupError, Group, Limits
from skerry.adapters.cgroup.probe import find_tree
from skerry.adapters.machine import remove_groups_of_the_dead

HERE = Path(__file__).parent
CPU_SHARES = 16384  # sixteen times a plain process
ENVIRONMENT = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # who needs more cores starts processes, as the platform does


def main(arguments: list[str]) -> int:
    there = sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith("_"))
    names, options = split(arguments, there)
    if not names and options and not options[0].startswith("-"):
        sys.exit(f"no bench is called {options[0]}; there are: {', '.join(there)}")
    failed = [name for name in names or there if run(name, options) != 0]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def split(arguments: list[str], there: list[str]) -> tuple[list[str], list[str]]:
    """Names of benches first; from the first word that is none, all belongs to them."""
    count = next((at for at, word in enumerate(arguments) if word not in there), len(arguments))
    return arguments[:count], arguments[count:]


def run(name: str, options: list[str]) -> int:
    print(f"== {name}", flush=True)
    with group_of_its_own() as group:
        if group is None:
            print("  (without a control group of its own: other work on this machine disturbs it more)", flush=True)
        program = [sys.executable, str(HERE / f"{name}.py"), *options]
        return subprocess.run(program, preexec_fn=lambda: enter(group), env=ENVIRONMENT, check=False).returncode


@contextlib.contextmanager
def group_of_its_own():
    """Yields None where groups cannot be made."""
    remove_groups_of_the_dead("skerry-bench")
    tree, _ = find_tree(f"skerry-bench-{os.getpid()}")
    group: Group | None = None
    if tree is not None:
        with contextlib.suppress(CgroupError):
            group = tree.create("bench")
            group.limit(Limits(cpu_shares=CPU_SHARES))
    try:
        yield group
    finally:
        if tree is not None:
            if group is not None:
                group.kill()
                group.remove()
            tree.remove()


def enter(group: Group | None) -> None:
    for file in group.join if group else ():
        Path(file).write_text("0")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
