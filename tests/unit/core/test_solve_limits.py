"""Limits of whole plans: instances for losses at the least cost, and room that others make for limits that are short."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from bench._exact import counts_of, optimum, small_world, violations

from skerry.adapters.worlds import make_problem
from skerry.core.placement.solve.batch import Market, draft_of, solve_part
from skerry.core.placement.solve.books import Books
from skerry.core.placement.solve.columns import make_columns
from skerry.core.placement.solve.limits import Standing, spread_out, survival_shortage
from skerry.core.placement.solve.mend import within_nodes
from skerry.core.placement.solve.whole import Settings, place_all
from skerry.core.types.app import RegionMin
from skerry.core.types.problem import Demand, Problem, ProblemApp
from skerry.core.types.resources import Resources


def left_after(counts: tuple[int, ...], losses: int) -> int:
    return sum(sorted(counts, reverse=True)[losses:])


@pytest.mark.parametrize("seed", range(60))
def test_instances_for_losses_are_the_cheapest_that_do(seed: int) -> None:
    draw = np.random.default_rng(seed)
    sites, losses, min_site = 4, 1 + seed % 2, 1 + (seed // 2) % 2
    most = draw.integers(0, 7, sites)
    counts = np.minimum(draw.integers(0, 7, sites), most)
    counts = np.where(counts >= min_site, counts, 0)
    price, need = draw.uniform(1.0, 5.0, sites), int(draw.integers(1, 8))
    missing, left = survival_shortage(counts, float(need), 1.0, losses), int(draw.integers(4, 20))
    if missing <= 0:
        return
    added = spread_out(Standing(counts, most, price, min_site), losses, missing, left)
    after = counts + added
    assert (added >= 0).all()
    assert int(added.sum()) <= left
    assert all(now <= top and (now == 0 or now >= min_site) for now, top in zip(after, np.maximum(most, counts), strict=True))
    every = product(*(range(int(low), int(max(low, high)) + 1) for low, high in zip(counts, most, strict=True)))
    fine = [
        float(price @ (np.array(tried) - counts))
        for tried in every
        if left_after(tried, losses) >= need
        and sum(tried) - int(counts.sum()) <= left
        and all(now == 0 or now >= min_site for now in tried)
    ]
    if min_site == 1:
        assert (left_after(tuple(after), losses) >= need) == bool(fine)
    if fine and min_site == 1:
        assert float(price @ added) == pytest.approx(min(fine), rel=1e-5)


def test_many_instances_of_large_cities_are_spread_as_few_are() -> None:
    most = np.array([10_000, 9_000, 12_000, 16, 8_000])
    counts = np.array([0, 691, 21, 16, 1])  # one city has no room for more
    added = spread_out(Standing(counts, most, np.array([1.0, 2.0, 3.0, 1.0, 4.0]), 1), 2, 650, 10**6)
    assert left_after(tuple(counts + added), 2) >= left_after(tuple(counts), 2) + 650


# Worlds of the bench in which an app finds room only where others leave, some of them only because others leave again.
@pytest.mark.parametrize("seed", (14, 19, 27, 30, 37, 39, 53, 68, 148))
def test_limits_are_kept_where_others_can_make_room(seed: int) -> None:
    problem = small_world(seed)
    plan = place_all(problem)
    assert plan.short == ()
    assert violations(problem, plan) == []
    assert float(plan.unserved.rps.sum()) == 0.0


def one_region_full() -> tuple[Problem, int]:
    """An app that may run anywhere fills a region of one city; another one needs an instance there."""
    problem = make_problem(cities=6, apps=2, seed=1, nodes_of_london=40, node_scale=0.05)
    regions = [site.region for site in problem.sites]
    alone = next(at for at, region in enumerate(regions) if regions.count(region) == 1)
    site = problem.sites[alone]
    each = Resources(cpu_millicores=100, memory_mib=64, disk_mib=16)
    filling = ProblemApp(app=problem.apps[0].app, reserve=each, rps_per_instance=100.0, priority=80)
    bound = ProblemApp(
        app=problem.apps[1].app, reserve=each, rps_per_instance=100.0, region_min=(RegionMin(region=site.region, count=3),)
    )
    most = site.nodes * (int(site.node.cpu_millicores * (1 - site.reserve) + 1e-6) // 100)
    metro = int(np.argmin(problem.rtt_ms[:, alone]))
    demand = Demand(
        start=np.array([0, 1, 2]), metro=np.array([metro, metro], dtype=np.int32), rps=np.array([100.0 * most * 1.1, 10.0])
    )
    return replace(problem, apps=(filling, bound), data=(), demand=demand), alone


def test_a_region_s_minimum_finds_room_where_others_can_leave() -> None:
    problem, alone = one_region_full()
    plan = place_all(problem)
    assert plan.short == ()
    assert violations(problem, plan) == []
    assert counts_of(problem, plan)[1, alone] >= 3
    assert float(plan.unserved.rps.sum()) == pytest.approx(0.0, abs=1e-6)


def test_a_limit_is_named_short_rather_than_users_turned_away() -> None:
    problem = small_world(9)
    plan = place_all(problem)
    assert [name for _, name, _ in plan.short] == ["survive_sites"]
    assert float(plan.unserved.rps.sum()) == 0.0
    assert optimum(problem, seconds=20.0, unserved_rps_max=1.0)[0] == np.inf  # it cannot be had otherwise


def test_a_city_with_too_much_is_left_by_as_many_as_are_too_many() -> None:
    problem = make_problem(cities=6, apps=8, seed=3, nodes_of_london=40, node_scale=0.05)
    columns = make_columns(problem)
    market = Market.at(columns, columns.homes_now, np.zeros_like(columns.capacity), losses=False, soft=1.0)
    part, _ = solve_part(market, market, np.arange(columns.apps))
    books = Books(columns, draft_of(columns, [part], columns.homes_now))
    over = books.over()
    assert over.any()
    within_nodes(books, market)
    assert not books.over().any()
    used = 1.0 - (books.free_of_sums() / columns.capacity).min(axis=1)
    assert (used[over] > 0.9).all()


@pytest.mark.parametrize("seed", (5, 26, 50, 64))
def test_the_last_word_of_a_small_world_lowers_what_it_costs(seed: int) -> None:
    problem = small_world(seed)
    plan, before = place_all(problem), place_all(problem, settings=Settings(polished=0))
    assert violations(problem, plan) == []
    assert plan.short == before.short == ()
    assert plan.objective.total < before.objective.total
