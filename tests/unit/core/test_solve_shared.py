"""Homes of data that several apps call: where all of them together want it, and nowhere it may not be."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from skerry.adapters.worlds import make_problem
from skerry.core.placement.solve.ask import latency_cost
from skerry.core.placement.solve.columns import Columns, make_columns
from skerry.core.placement.solve.shared import descended, groups_of
from skerry.core.placement.solve.whole import place_all
from skerry.core.types.app import DataCalls
from skerry.core.types.problem import Demand, Problem, ProblemApp, ProblemData
from skerry.core.types.resources import Resources

SMALL = Resources(cpu_millicores=50, memory_mib=64, disk_mib=16)


def two_apps(rps: tuple[float, float], calls: tuple[float, float], data: ProblemData) -> Problem:
    """Two apps, each with users in a city of its own (the first and the second), that call one datum; six cities in all."""
    problem = make_problem(cities=6, apps=2, seed=1, nodes_of_london=40)
    apps = tuple(
        ProblemApp(
            app=f"app-{at}",
            reserve=SMALL,
            rps_per_instance=50.0,
            calls=(DataCalls(data=data.data, per_request=calls[at]),),
            allow=(problem.sites[at].id,),
        )
        for at in range(2)
    )
    demand = Demand(start=np.array([0, 1, 2]), metro=np.array([0, 1], dtype=np.int32), rps=np.array(rps))
    return replace(problem, apps=apps, data=(data,), demand=demand)


def home_of(problem: Problem) -> str:
    return problem.sites[int(place_all(problem).homes[0])].id


def datum(problem: Problem, home: int, **fields: object) -> ProblemData:
    return ProblemData(data="orders", home=problem.sites[home].id, **{"movable": True, "size_gib": 1.0, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rps", "calls", "expected"),
    [((500.0, 100.0), (1.0, 1.0), 0), ((100.0, 500.0), (1.0, 1.0), 1), ((500.0, 100.0), (0.1, 4.0), 1)],
)
def test_it_goes_where_calls_times_requests_are_most(rps: tuple[float, float], calls: tuple[float, float], expected: int) -> None:
    world = make_problem(cities=6, apps=2, seed=1, nodes_of_london=40)
    assert home_of(two_apps(rps, calls, datum(world, 5))) == world.sites[expected].id


def test_it_stays_where_it_may_not_move_or_where_a_move_costs_more() -> None:
    world = make_problem(cities=6, apps=2, seed=1, nodes_of_london=40)
    there = world.sites[5].id
    assert home_of(two_apps((500.0, 100.0), (1.0, 1.0), datum(world, 5, movable=False))) == there
    assert home_of(two_apps((500.0, 100.0), (1.0, 1.0), datum(world, 5, size_gib=1e6))) == there
    assert home_of(two_apps((500.0, 100.0), (1.0, 1.0), datum(world, 5, size_gib=1.0))) != there


def test_it_stays_inside_its_jurisdiction() -> None:
    world = make_problem(cities=6, apps=2, seed=1, nodes_of_london=40)
    sites = [msgspec.structs.replace(site, jurisdictions=("x",) if at >= 3 else ()) for at, site in enumerate(world.sites)]
    inside = {site.id for site in sites if site.jurisdictions}
    problem = replace(two_apps((500.0, 100.0), (1.0, 1.0), datum(world, 5, jurisdiction="x")), sites=tuple(sites))
    assert home_of(problem) in inside


@pytest.fixture(scope="module")
def columns() -> Columns:
    problem = make_problem(cities=24, apps=120, seed=3, shared=0.5)
    sites = list(problem.sites)
    sites[2] = msgspec.structs.replace(sites[2], state="down")
    sites[7] = msgspec.structs.replace(sites[7], nodes=0)
    data = [msgspec.structs.replace(one, home=sites[at % 24].id) for at, one in enumerate(problem.data)]
    return make_columns(replace(problem, sites=tuple(sites), data=tuple(data)))


def cost(columns: Columns, apps: list[int], homes: np.ndarray, shadow: np.ndarray) -> float:
    """What they cost at these homes and prices, from the definition."""
    total = 0.0
    weights = columns.problem.weights
    for app in apps:
        ask = columns.ask(app, homes=homes, shadow=shadow, room=columns.room(app))
        each = latency_cost(ask.serve_ms, ask.latency_objective_ms, ask.priority, weights)
        each = each + (ask.price + ask.shadow + weights.move) / ask.rps_per_instance
        each = np.where(ask.room > 0, each, np.inf)
        total += float(ask.demand @ np.minimum(each.min(axis=1), weights.unserved * ask.priority / 50))
    for at, one in enumerate(columns.problem.data):
        total += weights.home * one.size_gib * float(homes[at] != columns.homes_now[at])
    return total


def test_no_datum_and_no_group_as_a_whole_has_a_better_home_than_the_descent_gives_it(columns: Columns) -> None:
    draw = np.random.default_rng(5)
    shadow = draw.uniform(0.0, 40.0, columns.capacity.shape) * (draw.uniform(size=columns.capacity.shape) < 0.5)
    groups, moved = groups_of(columns), 0
    assert len(groups) > 5
    for group in groups:
        homes = columns.homes_now.copy()
        homes[group.data] = descended(columns, homes, shadow, group)
        moved += int((homes != columns.homes_now).sum())
        callers = [app for app in range(columns.apps) if set(columns.loose[app].tolist()) & set(group.data.tolist())]
        assert sorted(callers) == group.apps.tolist()
        found = cost(columns, callers, homes, shadow)
        assert found <= cost(columns, callers, columns.homes_now, shadow)
        for block in [group.data, *group.data[:, None]]:
            for home in np.flatnonzero(columns.home_sites):
                other = homes.copy()
                other[block] = home
                assert found <= cost(columns, callers, other, shadow) * (1 + 1e-4)
    assert moved > 5
