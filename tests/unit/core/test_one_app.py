"""One app at given prices: what its users and its limits can rely on."""

from dataclasses import replace

import numpy as np

from skerry.core.placement.solve.ask import Ask, serving_order
from skerry.core.placement.solve.one_app import decide, review

FAR_MS = 100.0


def line(demand: list[float], *, room: int = 50, rate: float = 100.0) -> Ask:
    """A site in every metro, each FAR_MS from the next; instances are cheap."""
    sites = len(demand)
    at = np.arange(sites) * FAR_MS
    zeros = np.zeros(sites, dtype=np.int64)
    return Ask(
        demand=np.array(demand),
        serve_ms=np.abs(at[:, None] - at[None, :]) + 5.0,
        price=np.full(sites, 1.0),
        shadow=np.zeros(sites),
        room=np.full(sites, room),
        now=zeros,
        least=zeros,
        rps_per_instance=rate,
    )


def counts(ask: Ask) -> list[int]:
    choice = decide(ask)
    assert np.all(np.bincount(choice.flow_site, choice.flow_rps, len(ask.price)) <= choice.counts * ask.rps_per_instance + 1e-6)
    served = np.bincount(choice.flow_metro, choice.flow_rps, len(ask.demand))
    np.testing.assert_allclose(served + choice.unserved, ask.demand)
    return choice.counts.tolist()


def test_an_app_runs_where_its_users_are_as_often_as_they_need() -> None:
    assert counts(line([150.0, 0.0, 50.0])) == [2, 0, 1]


def test_users_too_few_to_pay_for_an_instance_are_served_from_elsewhere() -> None:
    assert counts(line([50.0, 0.1, 0.0])) == [1, 0, 0]


def test_a_shadow_price_sends_users_next_door() -> None:
    ask = replace(line([50.0, 0.0, 0.0]), shadow=np.array([20_000.0, 0.0, 0.0]))
    assert counts(ask) == [0, 1, 0]


def test_what_a_full_site_cannot_take_goes_to_the_next() -> None:
    ask = line([250.0, 0.0, 0.0])
    assert counts(replace(ask, room=np.array([1, 1, 50]))) == [1, 1, 1]


def test_without_any_room_demand_stays_unserved() -> None:
    choice = decide(line([10.0, 5.0], room=0))
    assert choice.counts.tolist() == [0, 0]
    assert choice.unserved.tolist() == [10.0, 5.0]
    assert choice.total == 15.0 * 10_000


def test_nothing_asked_runs_nowhere_and_a_minimum_runs_where_it_is_cheapest() -> None:
    ask = line([0.0, 0.0, 0.0])
    assert counts(ask) == [0, 0, 0]
    assert counts(replace(ask, min_total=1, price=np.array([3.0, 1.0, 2.0]))) == [0, 1, 0]


def test_limits_hold() -> None:
    ask = line([150.0, 10.0, 250.0])
    assert sum(counts(replace(ask, min_total=9))) == 9
    assert sum(counts(replace(ask, max_total=2))) == 2
    assert max(counts(replace(ask, max_site=1))) == 1
    assert all(count == 0 or count >= 3 for count in counts(replace(ask, min_site=3)))
    middle = np.array([False, True, False])
    assert counts(replace(ask, region_min=((middle, 4),)))[1] == 4
    assert counts(replace(ask, least=np.array([0, 5, 0])))[1] == 5


def test_what_survives_the_largest_site_still_carries_the_demand() -> None:
    for losses in (1, 2):
        found = counts(replace(line([250.0, 10.0, 40.0, 0.0]), survive_sites=losses))
        assert sum(sorted(found)[:-losses]) * 100 >= 300


def test_limits_that_cannot_be_met_are_named() -> None:
    ask = line([10.0, 0.0], room=2)
    assert decide(replace(ask, min_total=9)).short == (("min_total", 5),)
    alone = replace(ask, room=np.array([2, 0]), survive_sites=1)
    assert [name for name, _ in decide(alone).short] == ["survive_sites"]


def test_nothing_moves_without_need() -> None:
    ask = line([150.0, 3.0, 250.0, 0.0])
    first = decide(ask)
    again = decide(replace(ask, now=first.counts))
    assert again.counts.tolist() == first.counts.tolist()
    assert float(again.move.sum()) == 0.0


def test_a_lost_site_moves_only_what_was_there() -> None:
    ask = line([150.0, 30.0, 250.0, 40.0])
    first = decide(ask).counts
    room = ask.room.copy()
    room[1] = 0
    after = decide(replace(ask, room=room, now=first)).counts
    assert after[1] == 0
    assert np.all(np.delete(after, 1) >= np.delete(first, 1))


def test_a_request_tries_the_nearest_first() -> None:
    ask = line([150.0, 30.0, 250.0])
    assert serving_order(ask, decide(ask), 2).tolist() == [2, 1, 0]


def test_gains_say_what_one_more_would_bring() -> None:
    choice = decide(line([50.0, 0.1, 0.0]))
    assert choice.gain[1] == 0.1 * FAR_MS - 21.0
    assert np.all(choice.gain <= 0.0)


def test_a_review_starts_nothing() -> None:
    ask = replace(line([150.0, 30.0, 250.0]), now=np.array([0, 1, 0]))
    choice = review(ask)
    assert choice.counts.tolist() == [0, 1, 0]
    assert float(choice.unserved.sum()) == 330.0
