"""What is computed for many apps at once is what each of them would get by itself."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from skerry.adapters.worlds import make_problem
from skerry.core.placement.solve.ask import latency_cost
from skerry.core.placement.solve.columns import BARRED, FREE, Columns, make_columns, place_reason
from skerry.core.placement.solve.costs import Costs
from skerry.core.placement.solve.crowd import crowd_of, fewer, rows_of
from skerry.core.placement.solve.equilibrium import Rows, settled
from skerry.core.placement.solve.homes import home_costs, moving_cost
from skerry.core.types.problem import Floats


@pytest.fixture(scope="module")
def columns() -> Columns:
    problem = make_problem(cities=24, apps=120, seed=3)
    sites = list(problem.sites)
    sites[2] = msgspec.structs.replace(sites[2], state="down")
    sites[5] = msgspec.structs.replace(sites[5], state="draining")
    sites[7] = msgspec.structs.replace(sites[7], state="cut_off")
    sites[9] = msgspec.structs.replace(sites[9], nodes=0)
    return make_columns(replace(problem, sites=tuple(sites)))


def prices(columns: Columns) -> Floats:
    draw = np.random.default_rng(5)
    return draw.uniform(0.0, 40.0, columns.capacity.shape) * (draw.uniform(size=columns.capacity.shape) < 0.5)


def test_a_site_is_barred_for_the_reason_that_it_has_for_the_app_alone(columns: Columns) -> None:
    for app, asked in enumerate(columns.problem.apps):
        for site, place in enumerate(columns.problem.sites):
            code = int(columns.policy[columns.policy_of[app], site])
            assert (None if code == FREE else BARRED[code]) == place_reason(place, asked)


def test_what_a_request_costs_is_the_same_for_all_apps_together(columns: Columns) -> None:
    shadow, weights = prices(columns), columns.problem.weights
    costs = Costs(columns, columns.homes_now, shadow, started=True)
    for app in range(columns.apps):
        metros = columns.problem.demand.of(app)[0].astype(np.int64)
        ask = columns.ask(app, homes=columns.homes_now, shadow=shadow, room=columns.room(app))
        alone = latency_cost(ask.serve_ms, ask.latency_objective_ms, ask.priority, weights)
        alone = alone + (ask.price + ask.shadow + weights.move) / ask.rps_per_instance
        together = costs.of(np.full(len(metros), app), metros)
        there = ask.room > 0
        np.testing.assert_allclose(together[:, there], alone[:, there], rtol=1e-5)
        assert np.all(np.isinf(together[:, ~there]))


def test_the_least_over_all_homes_is_found_without_looking_at_every_home(columns: Columns) -> None:
    shadow, weights = prices(columns), columns.problem.weights
    looked_at = 0
    for app in [app for app in range(columns.apps) if len(columns.loose[app]) == 1]:
        ask = columns.ask_for_homes(app, columns.homes_now, shadow)
        data = int(columns.loose[app][0])
        calls = float(columns.calls_of(app, columns.loose[app])[0])
        price = (ask.price + ask.shadow + weights.move) / ask.rps_per_instance
        lost = weights.unserved * ask.priority / 50
        best = np.inf
        for home in range(columns.sites):
            cost = latency_cost(ask.serve_ms + calls * columns.site_rtt[:, home], ask.latency_objective_ms, ask.priority, weights)
            cost = np.where(ask.room > 0, cost + price, np.inf)
            total = float(ask.demand @ np.minimum(cost.min(axis=1), lost)) + float(moving_cost(columns, data)[home])
            best = min(best, total)
        found = float(home_costs(columns, app, ask, columns.homes_now).least.min())
        assert best * (1 - 1e-4) <= found <= best * (1 + 1e-12)
        looked_at += 1
    assert looked_at > 10


def test_prices_settle_where_what_is_wanted_is_what_there_is() -> None:
    cost = np.array([[0.0, 10.0], [0.0, 30.0]], dtype=np.float32)
    each = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    rows = Rows(cost, np.array([100.0, 100.0]), each, np.array([1e4, 1e4]))
    have = np.array([[120.0, 1.0, 1.0], [500.0, 1.0, 1.0]])
    found = settled(rows, have, np.zeros((2, 3)), ((8.0, 6), (2.0, 6), (0.1, 12)))
    assert found.price[0, 0] == pytest.approx(10.0, abs=0.5)  # whoever pays 10 for the other site is between both
    assert found.price[1, 0] == 0.0
    assert found.value == pytest.approx(80.0 * 10.0, rel=0.05)


def test_a_crowd_of_fewer_rows_asks_for_as_much(columns: Columns) -> None:
    crowd = crowd_of(columns, np.zeros(0, dtype=np.int64))
    assert crowd.rps.sum() == pytest.approx(columns.problem.demand.rps.sum())
    rows = rows_of(columns, crowd, columns.homes_now, settled=np.ones(columns.apps, dtype=np.bool_))
    some = fewer(rows, 50, 100)
    assert len(some.rps) <= 150 < len(rows.rps)
    assert some.rps.sum() == pytest.approx(rows.rps.sum())
