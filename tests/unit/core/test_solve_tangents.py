"""Apps with several data and a latency objective: their bound holds over all homes, and is nearer than one tangent alone."""

from dataclasses import replace
from itertools import product

import msgspec
import numpy as np
import pytest

from skerry.adapters.worlds import make_problem
from skerry.core.placement.solve.ask import latency_cost
from skerry.core.placement.solve.bound import price_floor
from skerry.core.placement.solve.columns import Columns, make_columns
from skerry.core.placement.solve.homes import home_costs, moving_cost
from skerry.core.placement.solve.tangents import curved, least_between
from skerry.core.types.app import DataCalls
from skerry.core.types.problem import Floats, ProblemData


def two_data(seed: int) -> Columns:
    """One app whose users are far from one another, with two data that may be anywhere."""
    problem = make_problem(cities=9, apps=1, seed=seed, nodes_of_london=40, node_scale=0.05)
    data = tuple(ProblemData(data=name, home=problem.sites[at].id, movable=True, size_gib=0.1) for at, name in enumerate("ab"))
    each = 0.3 + 0.25 * (seed % 5)
    calls = (DataCalls(data="a", per_request=each), DataCalls(data="b", per_request=0.5 * each))
    app = msgspec.structs.replace(problem.apps[0], calls=calls, latency_objective_ms=60.0 + 20.0 * (seed % 4), jurisdiction=None)
    return make_columns(replace(problem, apps=(msgspec.structs.replace(app, allow=(), deny=(), features=()),), data=data))


def least_of_all(columns: Columns, shadow: Floats) -> float:
    """By every pair of homes, instances by the request."""
    ask = columns.ask_for_homes(0, columns.homes_now, shadow)
    price = price_floor(ask.price + ask.shadow, ask.now, ask.weights.move) / ask.rps_per_instance
    runs = np.where(ask.room > 0, price, np.inf)
    lost = columns.problem.weights.unserved * ask.priority / 50
    found: list[float] = []
    for homes in product(range(columns.sites), repeat=2):
        calls = columns.calls_of(0, columns.loose[0])
        serve = ask.serve_ms + sum((call * columns.site_rtt[:, home] for call, home in zip(calls, homes, strict=True)), 0.0)
        cost = latency_cost(serve, ask.latency_objective_ms, ask.priority, ask.weights) + runs
        moved = sum(float(moving_cost(columns, int(data))[home]) for data, home in zip(columns.loose[0], homes, strict=True))
        found.append(float(ask.demand @ np.minimum(cost.min(axis=1), lost)) + moved)
    return min(found)


@pytest.mark.parametrize("seed", range(20))
def test_no_choice_of_homes_costs_less_than_the_bound_between_tangents(seed: int) -> None:
    columns = two_data(seed)
    assert curved(columns, 0)
    shadow = np.abs(np.random.default_rng(seed).normal(size=columns.capacity.shape)) * 0.02
    ask = columns.ask_for_homes(0, columns.homes_now, shadow)
    least = least_between(columns, 0, ask, columns.homes_now)
    assert least.value <= least_of_all(columns, shadow) * (1 + 1e-9)
    again = least_between(columns, 0, ask, None, said=least.homes)
    assert again.value == pytest.approx(least.value, rel=1e-12)  # what the certificate says is enough to find it again


def test_it_is_nearer_to_what_homes_cost_than_tangents_at_the_plan_s_homes() -> None:
    nearer, before, best = 0, 0.0, 0.0
    for seed in range(20):
        columns = two_data(seed)
        shadow = np.zeros_like(columns.capacity)
        ask = columns.ask_for_homes(0, columns.homes_now, shadow)
        plain = float(home_costs(columns, 0, ask, columns.homes_now).least.min(axis=1).sum())
        found = max(plain, least_between(columns, 0, ask, columns.homes_now).value)
        nearer += found > plain * (1 + 1e-9)
        before, best = before + plain, best + found
    assert nearer >= 10
    assert best > 1.02 * before
