"""Agents killed at every step on real engines; a few cycles of each here, as many as one likes by `python -m bench kills`."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from skerry.adapters.network.linux.probe import probe
from skerry.testing.kills import copies, stacks
from skerry.testing.kills.cycles import drive
from skerry.testing.kills.points import Plan
from skerry.testing.oci_node import busybox, is_root
from skerry.testing.programs_node import KINDS, Kind, missing

CYCLES: dict[Kind, int] = {"crun": 4, "runc": 2, "runsc": 2, "microvm": 1}
SECONDS = 60

pytestmark = [
    pytest.mark.skipif(not is_root(), reason="programs need root"),
    pytest.mark.skipif(busybox() is None, reason="no static busybox (busybox-static)"),
    pytest.mark.skipif(not probe().usable, reason=f"networks: {probe().rules}"),
    pytest.mark.timeout(1800),  # one that hangs is told by the driver,
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_agent_leaves_nothing_that_the_next_does_not_find(tmp_path: Path, kind: Kind) -> None:
    if problem := missing(kind):
        pytest.skip(f"{kind}: {problem}")
    seed = os.urandom(4).hex()
    tally = drive(kind, CYCLES[kind], seed=seed, seconds=SECONDS, out=tmp_path / "tally.json")
    told = "\n\n".join((*tally.problems, *(f"left: {sort} {name}" for sort, names in tally.left.items() for name in names)))
    if told:
        pytest.fail(f"{kind}, seed {seed}:\n{told}", pytrace=False)
    assert tally.cycles >= 1


async def _waits_for_ever() -> list[str]:
    stacks.tell_when_asked()
    await asyncio.Event().wait()
    return []


def _is_blocked() -> list[str]:
    time.sleep(60)
    return []


@pytest.mark.parametrize(
    ("work", "where"), [(lambda: asyncio.run(_waits_for_ever()), "_waits_for_ever:"), (_is_blocked, "in _is_blocked")]
)
def test_one_that_does_not_end_says_where_it_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Callable[[], list[str]], where: str
) -> None:
    monkeypatch.setattr(copies, "LIFE_S_MAX", 2.0)
    told = copies.Copies(tmp_path / "log").run(Plan(), work)
    assert told is not None
    (problem,) = told.problems
    assert problem.startswith("no end of it in 2 s")
    assert where in problem
