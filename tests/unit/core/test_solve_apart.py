"""The bound at several prices: the least over homes is found, and no level of a large app's cities claims too much."""

from dataclasses import replace
from itertools import product

import msgspec
import numpy as np
import pytest

from skerry.adapters.worlds import make_problem
from skerry.core.placement.solve.apart import HomeTable, least_of_most
from skerry.core.placement.solve.arrays import floats
from skerry.core.placement.solve.assign import assign
from skerry.core.placement.solve.columns import Columns, make_columns
from skerry.core.types.app import DataCalls
from skerry.core.types.problem import Floats, ProblemData


@pytest.mark.parametrize("seed", range(30))
def test_the_least_over_homes_of_the_most_over_prices_is_that_of_all_choices(seed: int) -> None:
    draw = np.random.default_rng(seed)
    prices, apps, sites = 1 + seed % 4, 1 + seed % 3, 2 + seed % 5
    constants = draw.uniform(-5.0, 5.0, prices)
    tables = [draw.uniform(0.0, 10.0, (prices, sites)) for _ in range(apps)]
    for table in tables:
        table[:, int(draw.integers(sites))] = np.inf  # where its home may not be
        table[:, 0] = draw.uniform(0.0, 10.0, prices)
    chosen = least_of_most(constants, tables)
    every = {
        homes: float((constants + sum(table[:, home] for table, home in zip(tables, homes, strict=True))).max())
        for homes in product(range(sites), repeat=apps)
    }
    assert chosen.value == pytest.approx(min(every.values()), rel=1e-12)
    assert every[chosen.homes] == pytest.approx(chosen.value, rel=1e-12)


def large(seed: int, several: bool) -> Columns:
    """One app that asks for more than any city has, and calls data of its own."""
    problem = make_problem(cities=6, apps=1, seed=seed, nodes_of_london=20, node_scale=0.05, load=0.7)
    names = ("a", "b") if several else ("a",)
    data = tuple(ProblemData(data=name, home=problem.sites[at].id, movable=True, size_gib=1.0) for at, name in enumerate(names))
    calls = tuple(DataCalls(data=item.data, per_request=1.5 - 0.5 * at) for at, item in enumerate(data))
    app = msgspec.structs.replace(problem.apps[0], calls=calls, latency_objective_ms=40.0 if seed % 2 else None)
    return make_columns(replace(problem, apps=(app,), data=data))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("several", (False, True))
def test_a_home_never_claims_more_than_the_cheapest_flows_from_there_cost(seed: int, several: bool) -> None:
    columns = large(seed, several)
    shadow = np.abs(np.random.default_rng(seed).normal(size=columns.capacity.shape)) * 0.05
    table = HomeTable(columns, 0, columns.homes_now, shadow, 0.0)
    before = table.least.copy()
    for home in range(columns.sites):
        table.look_at(home)
    assert (table.least >= before).all()
    assert table.level.any()  # some cities beside a home are full
    for homes in product(range(columns.sites), repeat=len(columns.problem.data)):
        cost = flows_cost(columns, np.array(homes, dtype=np.int64), shadow)
        first = int(np.lexsort((columns.loose[0], -columns.calls_of(0, columns.loose[0])))[0])
        assert table.least[homes[first]] <= cost * (1 + 1e-9)


def flows_cost(columns: Columns, homes: np.ndarray, shadow: Floats) -> float:
    """What a way to serve everybody costs with these homes, instances by the request and as many as a city holds."""
    ask = columns.ask(0, homes=homes, shadow=shadow, room=columns.room(0))
    late = ask.weights.late * ask.priority / 50 if ask.latency_objective_ms is not None else 0.0
    request = ask.weights.latency * ask.serve_ms + late * np.maximum(0.0, ask.serve_ms - (ask.latency_objective_ms or 0.0))
    each = (ask.price + ask.shadow + ask.weights.move) / ask.rps_per_instance
    lost = ask.weights.unserved * ask.priority / 50
    found = assign((request + each).T.copy(), ask.demand, floats(ask.room * ask.rps_per_instance), lost)
    moved = sum(
        200.0 * item.size_gib
        for item, home, now in zip(columns.problem.data, homes, columns.homes_now, strict=True)
        if home != now
    )
    return found.cost + moved
