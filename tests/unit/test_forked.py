"""A map in several processes is a map."""

import os

import numpy as np
import pytest

from skerry.adapters.forked import forked
from skerry.adapters.worlds import make_problem
from skerry.core.placement.solve.whole import place_all


@pytest.mark.parametrize("processes", (1, 2, 3, 50))
def test_results_come_in_the_order_of_the_parts(processes: int) -> None:
    assert list(forked(lambda part: part * part, range(20), processes=processes)) == [part * part for part in range(20)]


def test_parts_are_worked_on_by_other_processes() -> None:
    said = set(forked(lambda _: os.getpid(), range(4), processes=2))
    assert len(said) == 2
    assert os.getpid() not in said


def test_a_mistake_in_a_process_is_said_by_the_one_that_asked() -> None:
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        list(forked(lambda part: 1 // part, [3, 0, 5], processes=2))


def test_a_process_that_dies_is_said() -> None:
    with pytest.raises(RuntimeError, match="ended without its result"):
        list(forked(lambda part: os._exit(3) if part else part, [0, 1], processes=2))


def test_a_plan_is_the_same_however_many_processes_make_it() -> None:
    problem = make_problem(cities=6, apps=30, seed=5, nodes_of_london=40, node_scale=0.05)
    alone, three = place_all(problem), place_all(problem, spread=lambda function, parts: forked(function, parts, processes=3))
    np.testing.assert_array_equal(alone.instances.count, three.instances.count)
    np.testing.assert_array_equal(alone.flows.rps, three.flows.rps)
    assert alone.bound == three.bound
