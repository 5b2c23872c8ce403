"""Check a plan from nothing but its file and the world's files: J and its terms, every limit, and the bound.

python -m skerry.testing.check_plan WORLD PLAN [--from PLAN] [--event "site-lost lhr"]

Shares no code with what makes plans. Exit status: 0 the plan is what it says, 1 it is not.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from skerry.testing.check_plan.plan import Plan, check
from skerry.testing.check_plan.world import apply_event, read


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", type=Path)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--from", dest="before", type=Path)
    parser.add_argument("--event", action="append", default=[])
    asked = parser.parse_args(arguments)
    world, plan = read(asked.world), Plan.read(asked.plan)
    for event in asked.event:
        apply_event(world, event)
    before = Plan.read(asked.before) if asked.before else None
    found, terms = check(world, plan, before)
    for finding in found:
        print(("not met, and said so: " if finding.said else "WRONG: ") + finding.what)
    wrong = [finding for finding in found if not finding.said]
    print(f"J {sum(terms.values()):.9g}: " + ", ".join(f"{name} {value:.6g}" for name, value in terms.items()))
    print(f"bound {plan.file.bound}, gap {plan.file.gap}: {f'{len(wrong)} wrong' if wrong else 'all as it says'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
