"""What placement plans for: it rises before users wait, and does not flap."""

import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.core.machines.asked import Asked, AskedSettings, due_ms, recalled, step
from skerry.core.machines.demand import DemandSettings, Series, demand_of, observe
from skerry.core.types.demand import SiteDemand
from skerry.core.types.ids import SiteId

LHR = SiteId("lhr")
SETTINGS = AskedSettings()
BEGIN_MS = 20_000 * 86_400_000
HOLD_S = SETTINGS.hold_ms // 1000


@dataclass
class City:
    """Users who come as `rate` (per second, by seconds since the beginning) says, by chance where there is a seed."""

    rate: Callable[[float], float]
    every_s: int = 1
    seed: int | None = None
    asked: Asked = field(default_factory=Asked)
    series: Series = field(default_factory=Series)
    at_s: int = 0
    changes: list[tuple[int, float, float]] = field(default_factory=list[tuple[int, float, float]])  # second, before, after

    def play(self, seconds: int) -> None:
        chance = random.Random(self.seed)
        for _ in range(0, seconds, self.every_s):
            expected = self.rate(self.at_s) * self.every_s
            self.at_s += self.every_s
            self._look(round(expected) if self.seed is None else _poisson(chance, expected))

    def _look(self, requests: int) -> None:
        now_ms, observing = BEGIN_MS + self.at_s * 1000, DemandSettings()
        self.series = observe(self.series, requests, self.every_s * 1000, now_ms=now_ms, settings=observing)
        demand = demand_of(LHR, self.series, now_ms=now_ms, settings=observing)
        before, self.asked = self.asked.rps, step(self.asked, demand, now_ms=now_ms, settings=SETTINGS)
        if self.asked.rps != before:
            self.changes.append((self.at_s, before, self.asked.rps))

    @property
    def falls(self) -> list[int]:
        return [at_s for at_s, before, after in self.changes if after < before]

    @property
    def turns(self) -> int:
        """How often it went the other way than before."""
        ways = [after > before for _, before, after in self.changes]
        return sum(a != b for a, b in itertools.pairwise(ways))


def _poisson(chance: random.Random, mean: float) -> int:
    if mean > 50:
        return max(0, round(chance.gauss(mean, math.sqrt(mean))))
    limit, product, found = math.exp(-mean), chance.random(), 0
    while product > limit:
        product *= chance.random()
        found += 1
    return found


def steady(rps: float, **options: int | None) -> City:
    return City(lambda _: rps, **options)  # pyright: ignore[reportArgumentType]


def demand(rps: float) -> SiteDemand:
    return SiteDemand(site=LHR, rps=rps, smoothed_rps=rps, expected_rps=rps, most_rps=rps)


def test_nothing_is_asked_for_an_app_without_users() -> None:
    city = steady(0)
    city.play(2_000)
    assert (city.asked.rps, city.changes) == (0, [])


@given(before=st.integers(0, 50_000), after=st.integers(0, 50_000))
@settings(max_examples=60, deadline=None)
def test_a_crowd_is_asked_for_with_the_first_count_of_it(before: int, after: int) -> None:
    city = City(lambda second: before if second < 120 else after)
    city.play(121)
    assert city.asked.rps >= after - 4 * math.sqrt(after)  # so much may be chance


@given(begin=st.integers(2_000, 50_000), doubling_s=st.integers(10, 120))
@settings(max_examples=40, deadline=None)
def test_growth_is_carried_when_it_is_counted_and_nearly_all_of_it_when_instances_are_ready(begin: int, doubling_s: int) -> None:
    """Of few users growth is chance as likely, and an instance carries it."""
    ready_s = 3

    def rate(second: float) -> float:
        return begin * 2 ** (min(max(0.0, second - 60), 6 * doubling_s) / doubling_s)

    city = City(rate)
    city.play(64)  # growth takes some counts to be told from a step
    while city.at_s < 60 + 6 * doubling_s:
        city.play(1)
        assert city.asked.rps >= rate(city.at_s) - 4 * math.sqrt(rate(city.at_s))
        assert city.asked.rps >= 0.85 * rate(city.at_s + ready_s)


@pytest.mark.parametrize("every_s", [1, 10])
@pytest.mark.parametrize("rps", [1, 10, 100, 1_000, 10_000])
@given(seed=st.integers(0, 10_000))
@settings(max_examples=4, deadline=None)
def test_chance_around_a_level_moves_hardly_anything_for_hours(rps: int, every_s: int, seed: int) -> None:
    """But what the first count was is forgotten, and one in some 100,000 counts looks like a crowd."""
    city = steady(rps, every_s=every_s, seed=seed)
    city.play(3 * 3_600)
    assert city.turns <= 3
    assert len(city.changes) <= 5
    assert rps <= city.asked.rps <= 2 * rps + 5


@given(rps=st.sampled_from([0.0003, 0.001, 0.01, 0.1]), seed=st.integers(0, 10_000))
@settings(max_examples=12, deadline=None)
def test_users_who_come_now_and_then_are_asked_for_a_little_and_stay(rps: float, seed: int) -> None:
    city = steady(rps, every_s=10, seed=seed)
    city.play(6 * 3_600)
    assert city.asked.rps < max(6 * rps, 0.1)
    gone = [at_s for at_s, _, after in city.changes if after == 0]
    assert all(b - a >= SETTINGS.silent_ms // 1000 for a, b in itertools.pairwise(gone))


@given(period_s=st.integers(20, HOLD_S), low=st.integers(0, 100), high=st.integers(150, 2_000))
@settings(max_examples=25, deadline=None)
def test_a_wave_shorter_than_the_hold_never_makes_it_fall(period_s: int, low: int, high: int) -> None:
    city = City(lambda second: high - (high - low) * (second % period_s) / period_s, every_s=5)
    city.play(4 * 3_600)
    assert city.falls == []
    assert high <= city.asked.rps


@given(period_s=st.integers(HOLD_S, 4 * HOLD_S))
@settings(max_examples=15, deadline=None)
def test_longer_waves_end_in_a_level_that_carries_their_crests(period_s: int) -> None:
    """Of 36 waves and more, a few are learned from."""
    city = City(lambda second: 200 - 180 * (second % period_s) / period_s, every_s=10)
    city.play(12 * 3_600)
    assert len(city.falls) <= 6
    assert city.asked.rps >= 200


@given(st.lists(st.integers(0, 3_000), min_size=20, max_size=120))
@settings(max_examples=60, deadline=None)
def test_whatever_users_do_falls_are_rare_and_what_is_asked_is_enough(minutes: list[int]) -> None:
    city = City(lambda second: minutes[min(len(minutes) - 1, int(second) // 60)], every_s=10)
    for _ in minutes:
        city.play(60)
        assert city.asked.rps >= city.series.smoothed_rps
    assert all(b - a >= HOLD_S for a, b in itertools.pairwise(city.falls))


@pytest.mark.parametrize("seed", range(3))
def test_a_day_is_followed_up_and_down_once(seed: int) -> None:
    day_s = 86_400
    city = City(lambda second: 300 - 200 * math.cos(2 * math.pi * second / day_s), every_s=10, seed=seed)
    city.play(day_s // 4)
    city.changes.clear()
    city.play(2 * day_s)
    assert city.turns == 4
    assert len(city.changes) < 2 * 24
    assert city.asked.rps < 2 * 300


def test_what_is_gone_falls_after_a_hold_and_its_last_user_stays_for_long() -> None:
    city = City(lambda second: 500 if second < 600 else 0, every_s=10)
    city.play(600)
    assert city.asked.rps > 500
    city.play(HOLD_S - 10)
    assert city.asked.rps > 500
    city.play(2 * HOLD_S)
    assert city.asked.rps < 1
    city.play(2 * HOLD_S)
    assert city.asked.rps == SETTINGS.rps_min
    city.play(SETTINGS.silent_ms // 1000 + HOLD_S)
    assert city.asked.rps == 0


def test_what_is_recalled_holds_for_a_window_and_rises_at_once() -> None:
    asked = recalled(100.0, now_ms=BEGIN_MS)
    quiet = step(asked, demand(0), now_ms=BEGIN_MS + 1_000, settings=SETTINGS)
    assert quiet.rps == 100.0
    assert step(quiet, demand(400), now_ms=BEGIN_MS + 2_000, settings=SETTINGS).rps > 400
    assert due_ms(quiet, SETTINGS) == BEGIN_MS + SETTINGS.hold_ms
    turned = step(quiet, demand(0), now_ms=due_ms(quiet, SETTINGS), settings=SETTINGS)
    assert turned.rps == 100.0  # it may have been so much just before
    assert step(turned, demand(0), now_ms=due_ms(turned, SETTINGS), settings=SETTINGS).rps == SETTINGS.rps_min
