"""Agents that are killed at every step, on real engines, until nothing is left of any of them: no measure of time, a count.

    python -m bench kills [--cycles N] [--runtimes crun,runc,runsc,microvm] [--seconds S] [--seed TEXT]

One cycle: an agent starts two programs, calls into one (exec, files, pause, limits, snapshot, clone), crashes it, drops and
wakes it, and stops both; before one of the things that it does to the machine it is killed (or at some moment, or a while
after one); in some cycles so is part of what it had started, and the next agent too. Then the next agent takes over: what it
finds goes on and answers, and is stopped. What the machine then holds (processes, mounts, groups, tables, devices, sockets,
loop devices, files) is what it held before. A kind of N cycles takes about 2 s each, a microVM's 10 s.
"""

import argparse
import os
import tempfile
from pathlib import Path

from _measure import Report
from skerry.testing.kills.cycles import Tally, drive
from skerry.testing.kills.traces import KINDS as TRACES
from skerry.testing.oci_node import busybox, is_root
from skerry.testing.programs_node import KINDS, Kind, missing

SHARES = {"crun": 0.65, "runc": 0.15, "runsc": 0.16, "microvm": 0.04}  # of the cycles, by default


def run(kind: Kind, cycles: int, options: argparse.Namespace) -> Tally:
    """What its driver counted."""
    with tempfile.TemporaryDirectory(prefix="skerry-bench-") as scratch:
        return drive(kind, cycles, seed=options.seed, seconds=options.seconds, out=Path(scratch, "tally.json"))


def row(tally: Tally) -> dict[str, object]:
    return {
        "runtime": tally.kind, "cycles": tally.cycles, "killed": tally.killed,
        "steps hit": len([point for point in tally.hit if point]), "of": tally.known,
        "engines killed": tally.engines_killed,
        **{kind: len(tally.left.get(kind, ())) for kind in TRACES}, "problems": len(tally.problems),
    }  # fmt: skip


def main(options: argparse.Namespace) -> int:
    report = Report(options.json)
    tallies: list[Tally] = []
    names = options.runtimes.split(",")
    shares = sum(SHARES.get(name, 0) for name in names)
    for name in names:
        if name not in KINDS:
            report.note(f"{name}: there are {', '.join(KINDS)}")
            return 1
        if problem := missing(name):
            report.note(f"{name} is left out: {problem}")
            continue
        tallies.append(run(name, max(1, round(options.cycles * SHARES[name] / shares)), options))
    if not tallies:
        return report.close()
    report.table(f"cycles, seed {options.seed}", [row(tally) for tally in tallies])
    for tally in tallies:
        for kind, found in tally.left.items():
            for name in found:
                report.note(f"left by {tally.kind}: {kind} {name}")
        for problem in tally.problems:
            report.note(f"{tally.kind}: {problem}")
    report.claim("left over", sum(len(found) for tally in tallies for found in tally.left.values()), at_most=0)
    report.claim("agents that did not go on", sum(len(tally.problems) for tally in tallies), at_most=0)
    return report.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=100, help="over all runtimes; most of them crun's")
    parser.add_argument("--runtimes", default=",".join(KINDS))
    parser.add_argument("--seconds", type=float, default=3600, help="at most, for each runtime")
    parser.add_argument("--seed", default=os.urandom(4).hex())
    parser.add_argument("--json", type=Path)
    if not is_root() or busybox() is None:
        parser.exit(0, "skipped: needs root and a static busybox (sudo apt-get install busybox-static)\n")
    raise SystemExit(main(parser.parse_args()))
