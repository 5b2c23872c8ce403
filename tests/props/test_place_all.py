"""Whole plans on small worlds: kept limits, a bound that holds against the exact optimum, the same answer in any order."""

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from bench._exact import counts_of, objective, optimum, violations

from skerry.adapters.worlds import make_problem
from skerry.core.placement.bundles import Budget
from skerry.core.placement.solve.again import place_again, proven_again
from skerry.core.placement.solve.background import rebalance
from skerry.core.placement.solve.solution import Solution
from skerry.core.placement.solve.whole import place_all
from skerry.core.types.app import DataCalls
from skerry.core.types.place import PlaceState
from skerry.core.types.problem import Demand, Problem, ProblemApp, ProblemData
from skerry.core.types.resources import Resources
from skerry.core.worlds.plans import with_homes

SEEDS = range(12)


def small(seed: int, apps: int = 8) -> Problem:
    return make_problem(cities=6, apps=apps, seed=seed, nodes_of_london=30 + seed % 40, node_scale=0.02 + 0.01 * (seed % 5))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_plan_keeps_every_limit_and_its_bound_holds_against_the_exact_optimum(seed: int) -> None:
    problem = small(seed)
    plan = place_all(problem)
    assert violations(problem, plan) == []
    total = objective(problem, plan)
    assert plan.objective.total == pytest.approx(total, rel=1e-9)
    best, least = optimum(problem, seconds=20.0)
    assert plan.bound is not None
    assert plan.bound <= best * (1 + 1e-9)
    if not plan.short:
        assert least <= total * (1 + 1e-6)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shared", (True, False))
def test_the_bound_holds_for_data_of_several_apps_and_several_data_of_one(seed: int, shared: bool) -> None:
    problem = small(seed, apps=3)
    names = ("a", "b") if shared else ("a", "b", "c")
    data = tuple(ProblemData(data=name, home=problem.sites[at].id, movable=True, size_gib=5.0) for at, name in enumerate(names))
    calls = tuple(DataCalls(data=item.data, per_request=0.1 + 0.3 * seed * at) for at, item in enumerate(data))
    apps = [
        msgspec.structs.replace(app, survive_sites=0, min_total=1, calls=calls if shared or at == 0 else ())
        for at, app in enumerate(problem.apps)
    ]
    problem = replace(problem, apps=tuple(apps), data=data)
    plan = place_all(problem)
    assert violations(problem, plan) == []
    best, least = optimum(problem, seconds=20.0)
    assert plan.bound is not None
    assert 0.0 < plan.bound <= best * (1 + 1e-9)
    assert plan.short or least <= objective(problem, plan) * (1 + 1e-6)


def sharing(seed: int, apps: int = 8) -> Problem:
    """With data that two or three apps call, all data far from where it was made."""
    problem = make_problem(
        cities=6, apps=apps, seed=seed, nodes_of_london=30 + seed % 40, node_scale=0.02 + 0.01 * (seed % 5), load=0.5, shared=0.6
    )
    sites = [site.id for site in problem.sites]
    data = [msgspec.structs.replace(one, home=sites[(seed + 5 * at) % len(sites)]) for at, one in enumerate(problem.data)]
    return replace(problem, data=tuple(data))


def moved_shared(problem: Problem, plan: Solution) -> list[str]:
    calls = Counter(call.data for app in problem.apps for call in app.calls)
    homes = [problem.sites[int(home)].id for home in plan.homes]
    return [one.data for one, home in zip(problem.data, homes, strict=True) if calls[one.data] > 1 and home != one.home]


def test_data_that_several_apps_call_moves_to_where_the_exact_optimum_nearly_is() -> None:
    above: list[float] = []
    moved = 0
    for seed in SEEDS:
        problem = sharing(seed)
        plan = place_all(problem)
        assert violations(problem, plan) == []
        total = objective(problem, plan)
        assert plan.objective.total == pytest.approx(total, rel=1e-9)
        best, least = optimum(problem, seconds=20.0)
        assert plan.bound is not None
        assert plan.bound <= best * (1 + 1e-9)
        moved += len(moved_shared(problem, plan))
        if not plan.short:
            assert least <= total * (1 + 1e-6)
            above.append(total / best)
    assert moved >= 6
    assert float(np.median(above)) < 1.05
    assert max(above) < 1.6, "as near as the other small worlds; where shared data stays, ten times the optimum is usual"


def test_the_order_of_input_decides_nothing_about_shared_homes() -> None:
    problem = sharing(8, apps=30)
    other = with_rows_in_another_order(problem, 8)[0]
    first, second = place_all(problem), place_all(other)
    assert moved_shared(problem, first) == sorted(moved_shared(other, second))
    assert first.objective == second.objective
    assert first.bound == second.bound


def with_rows_in_another_order(problem: Problem, seed: int) -> tuple[Problem, list[int], list[int]]:
    draw = np.random.default_rng(seed)
    sites, metros, apps = (draw.permutation(len(rows)).tolist() for rows in (problem.sites, problem.metros, problem.apps))
    at = {metro: place for place, metro in enumerate(metros)}
    rows = [sorted((at[int(m)], r) for m, r in zip(*problem.demand.of(app), strict=True)) for app in apps]
    return (
        replace(
            problem,
            sites=tuple(problem.sites[at] for at in sites),
            metros=tuple(problem.metros[at] for at in metros),
            apps=tuple(problem.apps[at] for at in apps),
            data=tuple(reversed(problem.data)),
            rtt_ms=problem.rtt_ms[np.ix_(metros, sites)],
            site_rtt_ms=problem.site_rtt_ms[np.ix_(sites, sites)],
            demand=Demand(
                start=np.concatenate(([0], np.cumsum([len(row) for row in rows]))).astype(np.int64),
                metro=np.array([m for row in rows for m, _ in row], dtype=np.int32),
                rps=np.array([r for row in rows for _, r in row]),
            ),
        ),
        apps,
        sites,
    )


@pytest.mark.parametrize("seed", (3, 10))
def test_the_order_of_input_decides_nothing(seed: int) -> None:
    problem = small(seed, apps=30)
    other, apps, sites = with_rows_in_another_order(problem, seed)
    first, second = place_all(problem), place_all(other)
    np.testing.assert_array_equal(counts_of(problem, first)[np.ix_(apps, sites)], counts_of(other, second))
    assert first.objective == second.objective
    assert first.bound == second.bound


def test_the_hash_seed_decides_nothing() -> None:
    program = (
        "import hashlib; from skerry.adapters.worlds import make_problem;"
        "from skerry.core.placement.solve.whole import place_all;"
        "s = place_all(make_problem(cities=6, apps=20, seed=4, nodes_of_london=40, node_scale=0.05));"
        "print(hashlib.sha256(s.instances.count.tobytes() + s.flows.rps.tobytes()).hexdigest(), s.bound)"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1]


@pytest.mark.parametrize("seed", (0, 10, 12))
def test_an_unchanged_world_moves_nothing(seed: int) -> None:
    problem = small(seed, apps=30)
    plan = place_all(problem)
    again = place_again(problem, plan)
    np.testing.assert_array_equal(counts_of(problem, again), counts_of(problem, plan))
    assert again.objective.move == 0.0


@pytest.mark.parametrize("seed", range(8))
def test_a_site_that_lost_half_its_nodes_keeps_what_they_can_hold(seed: int) -> None:
    problem = small(seed, apps=30)
    plan = place_all(problem)
    sites = list(problem.sites)
    busiest = int(counts_of(problem, plan).sum(axis=0).argmax())
    sites[busiest] = msgspec.structs.replace(sites[busiest], nodes=sites[busiest].nodes // 2)
    smaller = replace(problem, sites=tuple(sites))
    after = place_again(smaller, plan)
    assert violations(smaller, after) == []
    assert counts_of(smaller, after)[:, busiest].sum() > 0
    np.testing.assert_array_equal(counts_of(smaller, place_again(smaller, after)), counts_of(smaller, after))


@pytest.mark.parametrize("seed", (8, 9, 10))  # with room elsewhere: where it is short, others give way
def test_a_lost_site_moves_only_what_was_there(seed: int) -> None:
    problem = small(seed, apps=30)
    plan = place_all(problem)
    before = counts_of(problem, plan)
    lost = int(before.sum(axis=0).argmin())
    sites = list(problem.sites)
    sites[lost] = msgspec.structs.replace(sites[lost], state="down")
    dark = replace(problem, sites=tuple(sites))
    after_plan = place_again(dark, plan)
    after = counts_of(problem, after_plan)
    assert violations(dark, after_plan) == []
    assert after[:, lost].sum() == 0
    elsewhere = np.delete(after - before, lost, axis=1)
    calm = (before[:, lost] == 0) & np.array([app.survive_sites == 0 for app in problem.apps])
    assert np.all(elsewhere[calm] == 0)


STAY = {0, 1}  # where moving data costs more than it brings


@pytest.mark.parametrize("state", ("down", "draining"))
@pytest.mark.parametrize("seed", range(6))
def test_an_app_takes_its_data_along_from_a_site_that_it_leaves(seed: int, state: PlaceState) -> None:
    as_asked = small(seed, apps=30)
    plan = place_all(as_asked)
    problem, before = with_homes(as_asked, plan.homes), counts_of(as_asked, plan)
    own = {data for data, callers in Counter(call.data for app in problem.apps for call in app.calls).items() if callers == 1}
    there = Counter(data.home for data in problem.data if data.movable and data.data in own)
    lost, site_of = there.most_common(1)[0][0], {site.id: at for at, site in enumerate(problem.sites)}
    sites = list(problem.sites)
    sites[site_of[lost]] = msgspec.structs.replace(sites[site_of[lost]], state=state)
    dark = replace(problem, sites=tuple(sites))
    after = place_again(dark, plan)
    assert violations(dark, after, before) == []
    assert place_again(replace(as_asked, sites=tuple(sites)), plan).short == after.short, (
        "who says where data was at first may ask"
    )
    moved = {data.data for data, at in zip(problem.data, after.homes, strict=True) if problem.sites[int(at)].id != data.home}
    assert moved <= {data.data for data in problem.data if data.home == lost} & own
    fixed = tuple(msgspec.structs.replace(data, movable=False) for data in problem.data)
    stays = place_again(replace(dark, data=fixed), plan)
    if moved:
        assert after.objective.total < stays.objective.total
    assert moved or seed in STAY
    again = place_again(with_homes(dark, after.homes), after)
    np.testing.assert_array_equal(counts_of(dark, again), counts_of(dark, after))


@pytest.mark.parametrize("state", ("up", "down", "cut_off", "draining"))
@pytest.mark.parametrize("seed", (3, 8, 10))
def test_the_bound_of_a_plan_from_a_plan_holds_against_the_exact_optimum(seed: int, state: PlaceState) -> None:
    problem = small(seed)
    plan = place_all(problem)
    now = counts_of(problem, plan)
    busiest = int(now.sum(axis=0).argmax())
    sites = list(problem.sites)
    sites[busiest] = msgspec.structs.replace(sites[busiest], state=state)
    changed = with_homes(replace(problem, sites=tuple(sites)), plan.homes)
    after = proven_again(changed, plan, place_again(changed, plan))
    best, _ = optimum(changed, now, seconds=20.0)
    assert after.bound is not None
    assert 0.0 < after.bound <= best * (1 + 1e-9)
    assert after.bound <= after.objective.total


def test_moved_demand_moves_only_its_app() -> None:
    problem = small(10, apps=30)
    plan = place_all(problem)
    rps = problem.demand.rps.copy()
    rps[problem.demand.start[4] : problem.demand.start[5]] *= 0.5
    changed = replace(problem, demand=replace(problem.demand, rps=rps))
    after = place_again(changed, plan)
    assert violations(changed, after, counts_of(problem, plan)) == []
    different = np.flatnonzero((counts_of(problem, after) != counts_of(problem, plan)).any(axis=1)).tolist()
    assert set(different) <= {4}


def crowded(seed: int) -> Problem:
    """Two cities full of an app that may run anywhere, and in them one that may run nowhere else and has to survive a loss."""
    problem = make_problem(cities=6, apps=2, seed=seed, nodes_of_london=40, node_scale=0.05)
    near = sorted(np.argsort(problem.site_rtt_ms[0], kind="stable")[:2].tolist())
    first = problem.apps[0]
    plain = ProblemApp(app=first.app, reserve=Resources(cpu_millicores=100, memory_mib=64, disk_mib=16), rps_per_instance=100.0)
    bound = msgspec.structs.replace(plain, survive_sites=1, allow=tuple(problem.sites[at].id for at in near))
    most = [problem.sites[at].nodes * (int(problem.sites[at].node.cpu_millicores * 0.9) // 100) for at in near]
    rps = [100.0 * part * count for part in (0.3, 0.68) for count in most]
    return replace(
        problem,
        apps=(bound, msgspec.structs.replace(plain, app=problem.apps[1].app)),
        data=(),
        demand=Demand(start=np.array([0, 2, 4]), metro=np.array(near * 2, dtype=np.int32), rps=np.array(rps)),
    )


@pytest.mark.parametrize("seed", range(3))
def test_others_make_room_for_an_app_that_can_survive_nowhere_else(seed: int) -> None:
    problem = crowded(seed)
    plan = place_all(problem)
    assert violations(problem, plan) == []
    assert plan.short == ()
    assert len(plan.unserved.app) == 0


def other_demand(problem: Problem) -> Problem:
    """As much in all, of other apps."""
    rps = problem.demand.rps[::-1].copy()
    return replace(problem, demand=replace(problem.demand, rps=rps * (problem.demand.rps.sum() / rps.sum())))


@pytest.mark.parametrize("seed", range(8))
def test_rebalancing_keeps_to_its_budget_breaks_no_limit_and_pays_for_every_start(seed: int) -> None:
    problem, budget = small(seed, apps=30), Budget(moves=40, gain_min=50.0)
    problem = with_homes(problem, place_all(problem).homes)
    changed = other_demand(problem)
    plan = place_again(changed, place_all(problem))
    changed = with_homes(changed, plan.homes)
    moved, broken = 0, {(app, name) for app, name, _ in plan.short}
    for _ in range(6):
        before = counts_of(changed, plan)
        after = rebalance(changed, plan, budget)
        assert violations(changed, after, before) == []
        assert {(app, name) for app, name, _ in after.short} <= broken
        starts = int(np.clip(counts_of(changed, after) - before, 0, None).sum())
        saved = objective(changed, plan, before) - objective(changed, after, before)
        assert starts <= budget.moves
        assert saved >= budget.gain_min * starts - 1e-6 * objective(changed, plan, before)
        moved += starts
        plan = after
        changed = with_homes(changed, plan.homes)
    assert seed not in WITH_ROOM or moved > 0


WITH_ROOM = {0, 7}  # in some of the others everything is so full that nobody finds eight others that make room


@pytest.mark.parametrize("seed", range(4))
def test_rebalancing_an_unchanged_world_comes_to_an_end(seed: int) -> None:
    problem = small(seed, apps=30)
    plan = place_all(problem)
    problem, counts = with_homes(problem, plan.homes), None
    for _ in range(20):
        plan = rebalance(problem, plan, Budget(moves=10_000))
        problem = with_homes(problem, plan.homes)
        last, counts = counts, counts_of(problem, plan)
        if last is not None and np.array_equal(last, counts):
            return
    raise AssertionError("it still moves")


EMPTY = Demand(start=np.zeros(1, dtype=np.int64), metro=np.zeros(0, dtype=np.int32), rps=np.zeros(0))


def test_degenerate_worlds_have_plans() -> None:
    problem = small(0)
    nobody = replace(problem, apps=(), demand=EMPTY, data=())
    assert place_all(nobody).objective.total == 0.0
    silent = replace(
        problem,
        demand=Demand(np.zeros(len(problem.apps) + 1, dtype=np.int64), np.zeros(0, dtype=np.int32), np.zeros(0)),
    )
    plan = place_all(silent)
    assert violations(silent, plan) == []
    assert len(plan.flows.app) == 0
    nowhere = replace(problem, sites=tuple(msgspec.structs.replace(site, state="down") for site in problem.sites))
    plan = place_all(nowhere)
    assert int(plan.instances.count.sum()) == 0
    assert float(plan.unserved.rps.sum()) == pytest.approx(float(problem.demand.rps.sum()))
    huge = replace(
        problem,
        apps=tuple(
            msgspec.structs.replace(app, reserve=msgspec.structs.replace(app.reserve, memory_mib=10**9)) for app in problem.apps
        ),
    )
    assert int(place_all(huge).instances.count.sum()) == 0
