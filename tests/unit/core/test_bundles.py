"""Which apps move together and in which steps: room is made before it is taken, and every start pays."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.core.placement.bundles import Budget, Bundle, Change, Room, bundles

ONE = (1.0, 1.0, 0.0)
BUDGET = Budget(moves=10, gain_min=50.0)


def change(app: int, had: dict[int, int], has: dict[int, int], gain: float, waits: tuple[int, ...] = ()) -> Change:
    return Change(app, had, has, ONE, gain, waits)


def room(*free: float) -> Room:
    return [[each, each, 0.0] for each in free]


def steps(bundle: Bundle) -> list[list[tuple[int, dict[int, int]]]]:
    return [[(one.app, dict(one.has)) for one in step] for step in bundle.steps]


def test_a_move_that_pays_is_made_at_once() -> None:
    (found,) = bundles([change(0, {0: 1}, {1: 1}, 100.0)], room(0, 1), BUDGET, 20.0)
    assert (found.gain, found.starts, steps(found)) == (100.0, 1, [[(0, {1: 1})]])


@pytest.mark.parametrize("gain", (0.0, 90.0, -5.0))
def test_what_does_not_pay_for_its_starts_stays(gain: float) -> None:
    assert bundles([change(0, {0: 1}, {1: 1}, gain)], room(0, 1), BUDGET, 20.0) == []


def test_one_that_loses_gives_way_to_one_that_gains_more() -> None:
    found = bundles([change(0, {0: 1}, {1: 1}, 300.0), change(1, {1: 1}, {2: 1}, -40.0)], room(0, 0, 1), BUDGET, 20.0)
    assert [(one.gain, one.starts, steps(one)) for one in found] == [(260.0, 2, [[(1, {2: 1})], [(0, {1: 1})]])]


def test_one_that_would_lose_too_much_does_not_give_way() -> None:
    assert bundles([change(0, {0: 1}, {1: 1}, 215.0), change(1, {1: 1}, {2: 1}, -40.0)], room(0, 0, 1), BUDGET, 20.0) == []


def test_two_that_wait_for_one_another_change_places_by_way_of_a_third_city() -> None:
    both = [change(0, {0: 1}, {1: 1}, 400.0, waits=(2,)), change(1, {1: 1}, {0: 1}, 400.0, waits=(2,))]
    (found,) = bundles(both, room(0, 0, 1), BUDGET, 20.0)
    assert (found.starts, steps(found)) == (3, [[(0, {2: 1})], [(1, {0: 1})], [(0, {1: 1})]])
    assert bundles(both, room(0, 0, 0), BUDGET, 20.0) == [], "nowhere to wait"
    assert bundles(both, room(0, 0, 1), Budget(moves=2, gain_min=50.0), 20.0) == [], "beyond the budget"
    assert bundles(both, room(0, 0, 1), Budget(moves=9, gain_min=250.0), 20.0) == [], "the way costs too much"


def test_the_budget_goes_to_what_gains_most() -> None:
    some = [change(app, {0: 2}, {1: 2}, 200.0 + app) for app in range(5)]
    found = bundles(some, room(0, 100), Budget(moves=5, gain_min=50.0), 20.0)
    assert [one.apps for one in found] == [(4,), (3,)]


counts = st.dictionaries(st.integers(0, 3), st.integers(1, 3), min_size=1, max_size=2)


@given(
    st.lists(st.tuples(counts, counts, st.floats(-500, 2000), st.permutations(range(4))), min_size=1, max_size=7),
    st.lists(st.integers(0, 4), min_size=4, max_size=4),
    st.integers(0, 20),
)
def test_no_step_takes_what_is_not_free_and_every_app_ends_where_it_should(
    drawn: list[tuple[dict[int, int], dict[int, int], float, list[int]]], free: list[int], moves: int
) -> None:
    changes = [change(at, had, has, gain, tuple(waits)) for at, (had, has, gain, waits) in enumerate(drawn)]
    found = bundles(changes, room(*free), Budget(moves=moves, gain_min=50.0), 20.0)
    assert sum(one.starts for one in found) <= moves
    moved = [app for one in found for app in one.apps]
    assert len(set(moved)) == len(moved)
    at = {one.app: dict(one.had) for one in changes}
    left = list(free)
    for number in range(max((len(one.steps) for one in found), default=0)):
        step = [made for one in found for made in one.steps[number : number + 1] for made in made]
        for made in step:
            assert at[made.app] == dict(made.had)
            for site in range(4):
                left[site] -= max(0, made.has.get(site, 0) - made.had.get(site, 0))
        assert min(left) >= 0
        for made in step:
            at[made.app] = dict(made.has)
            for site in range(4):
                left[site] += max(0, made.had.get(site, 0) - made.has.get(site, 0))
    for one in found:
        assert one.gain > 50.0 * max(1, one.starts) + 20.0 * (one.starts + one.ends)
        assert one.gain == pytest.approx(sum(changes[app].gain for app in one.apps))
        assert all(at[app] == changes[app].has for app in one.apps)
