"""Whole plans in a process of their own: the same answer, an error that is told, and no process left behind."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from skerry.adapters.beside import exchanges_beside
from skerry.adapters.worlds import make_problem
from skerry.core.placement.bundles import Budget
from skerry.core.placement.solve.background import exchanges
from skerry.core.placement.solve.columns import Instances
from skerry.core.placement.solve.whole import place_all
from skerry.core.types.problem import Problem
from skerry.testing.waiting import eventually

PARENT = """
import asyncio
from skerry.adapters.beside import exchanges_beside
from skerry.adapters.worlds import make_problem
from skerry.core.placement.bundles import Budget
from skerry.core.placement.solve.columns import Instances
import numpy as np
nothing = np.zeros(0, dtype=np.int64)
asyncio.run(exchanges_beside(make_problem(cities=200, apps=3000), Instances(nothing, nothing, nothing), Budget()))
"""


def misplaced() -> tuple[Problem, Instances]:
    """What runs is right for another seed's demand."""
    problem = make_problem(cities=6, apps=12, seed=4, nodes_of_london=32, node_scale=0.04)
    other = place_all(make_problem(cities=6, apps=12, seed=5, nodes_of_london=32, node_scale=0.04))
    return problem, other.instances


def test_the_answer_is_that_of_the_function_itself() -> None:
    problem, now = misplaced()
    budget = Budget(moves=200, gain_min=1.0)
    here = exchanges(problem, now, budget)
    assert here
    assert asyncio.run(exchanges_beside(problem, now, budget)) == here


def test_a_process_that_fails_is_told_of() -> None:
    with pytest.raises(RuntimeError, match="ended with 1"):
        asyncio.run(exchanges_beside(None, None, Budget()))  # type: ignore[arg-type]


def children(pid: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


async def test_it_ends_with_the_process_that_asked() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT]) as parent:
        await eventually(lambda: children(parent.pid) or parent.poll() is not None)
        (child,) = children(parent.pid)
        parent.send_signal(signal.SIGKILL)
    await eventually(lambda: not Path(f"/proc/{child}").exists())
