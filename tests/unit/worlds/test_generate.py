"""Worlds made by a seed: sizes from demand, the load that was asked, the same everywhere."""

import os
import subprocess
import sys

import numpy as np
import pytest

from skerry.adapters.worlds import load_catalogue, make_problem
from skerry.core.geo.demand import Audience, activity
from skerry.core.types.problem import Problem
from skerry.kit.draws import Draws

DIGEST = """
import hashlib, pickle
from skerry.adapters.worlds import make_problem
problem = make_problem(cities=30, apps=40, seed=5)
said = repr((problem.sites, problem.apps, problem.data)).encode()
print(hashlib.sha256(said + problem.demand.rps.tobytes() + problem.rtt_ms.tobytes()).hexdigest())
"""


def load_of(problem: Problem) -> float:
    """Of the scarcer resource, with whole apps but parts of instances."""
    need = np.zeros(2)
    for index, app in enumerate(problem.apps):
        instances = max(problem.demand.of(index)[1].sum() / app.rps_per_instance, app.min_total)
        need += instances * np.array([app.reserve.cpu_millicores, app.reserve.memory_mib])
    have = sum(
        site.nodes * (1 - site.reserve) * np.array([site.node.cpu_millicores, site.node.memory_mib]) for site in problem.sites
    )
    return float((need / have).max())


def test_cities_are_as_large_as_their_users_make_them() -> None:
    nodes = {site.id: site.nodes for site in make_problem(apps=0).sites}
    assert len(nodes) == 340
    assert 1_500 <= nodes["lhr"] <= 4_000
    assert nodes["cur"] == 3
    assert min(nodes.values()) == 3


@pytest.mark.parametrize("load", [0.3, 0.7, 0.95])
def test_demand_takes_the_share_of_capacity_that_was_asked(load: float) -> None:
    assert load_of(make_problem(cities=50, apps=200, load=load)) == pytest.approx(load, rel=1e-3)


def test_another_hour_of_the_same_world_moves_the_demand_and_nothing_else() -> None:
    noon, night = (make_problem(cities=60, apps=30, hour=hour) for hour in (12.0, 0.0))
    assert (noon.sites, noon.apps, noon.data) == (night.sites, night.apps, night.data)
    assert noon.demand.rps.sum() != night.demand.rps.sum()
    assert load_of(night) <= 0.7 + 1e-6


def test_worlds_are_the_same_whatever_the_hash_seed() -> None:
    said = {
        subprocess.run(
            [sys.executable, "-c", DIGEST], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("0", "77")
    }
    assert len(said) == 1


def test_another_seed_is_another_mix_of_apps_in_the_same_cities() -> None:
    one, other = make_problem(cities=20, apps=20, seed=1), make_problem(cities=20, apps=20, seed=2)
    assert one.sites == other.sites
    assert one.apps != other.apps


def test_what_is_made_is_consistent() -> None:
    problem = make_problem(cities=40, apps=300, metros=60)
    sites, data = {site.id for site in problem.sites}, {item.data: item for item in problem.data}
    assert problem.rtt_ms.shape == (60, 40)
    assert all(item.home in sites for item in problem.data)
    assert all(call.data in data for app in problem.apps for call in app.calls)
    for index, app in enumerate(problem.apps):
        metros, rps = problem.demand.of(index)
        assert (np.diff(metros) > 0).all()
        assert (rps > 0).all()
        assert app.min_total > app.survive_sites
    for rule in ("jurisdiction", "latency_objective_ms", "survive_sites", "deny", "features", "calls"):
        assert any(getattr(app, rule) for app in problem.apps), rule


def test_fewer_cities_keep_the_large_one_and_the_small_one() -> None:
    assert {"lhr", "cur"} <= {site.id for site in make_problem(cities=5, apps=1).sites}


def test_evenings_are_busier_than_early_mornings_and_a_day_averages_to_one() -> None:
    hours = np.arange(24.0)
    assert activity(hours).mean() == pytest.approx(1.0)
    assert activity(np.array([21.0]))[0] > 2 * activity(np.array([5.0]))[0]
    tables = load_catalogue()
    tokyo = Audience.of([("nrt", "JP")], tables.users)
    assert tokyo.peak_hour() == 12  # nine in the evening there


def test_draws_of_one_name_do_not_depend_on_others_and_cover_the_unit_interval() -> None:
    draws = Draws(1)
    drawn = draws.uniform("a", 20_000)
    assert (drawn[100:200] == draws.uniform("a", 100, start=100)).all()
    assert drawn.mean() == pytest.approx(0.5, abs=0.01)
    assert 0 < drawn.min() < drawn.max() < 1
    assert abs(np.corrcoef(drawn, draws.uniform("b", 20_000))[0, 1]) < 0.02
    normal = draws.normal("n", 20_000)
    assert (normal.mean(), normal.std()) == (pytest.approx(0, abs=0.03), pytest.approx(1, abs=0.03))
