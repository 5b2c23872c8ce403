"""Demand: from counted requests to what to be ready for."""

import random

import pytest

from skerry.core.machines.demand import DemandSettings, Series, demand_of, observe
from skerry.core.machines.pattern import HOUR_MS, UNKNOWN, hour_of_day, learned, usual_rps
from skerry.core.types.demand import SiteDemand
from skerry.core.types.ids import SiteId

LHR = SiteId("lhr")
SETTINGS = DemandSettings()
DAY_MS = 24 * HOUR_MS
MIDNIGHT_MS = 20_000 * DAY_MS


def after(samples: list[int], series: Series | None = None, *, every_ms: int = 1000, now_ms: int = MIDNIGHT_MS) -> Series:
    series = series or Series()
    for number, requests in enumerate(samples, start=1):
        series = observe(series, requests, every_ms, now_ms=now_ms + number * every_ms, settings=SETTINGS)
    return series


def seen(series: Series) -> SiteDemand:
    return demand_of(LHR, series, now_ms=series.at_ms, settings=SETTINGS)


def test_a_step_up_is_believed_with_its_first_sample() -> None:
    demand = seen(after([100] * 60 + [2000]))
    assert (demand.rps, demand.smoothed_rps, demand.expected_rps) == (2000, 2000, 2000)


def test_a_step_that_a_sample_cuts_is_not_taken_for_growth() -> None:
    cut = after([100] * 60 + [1050])
    assert seen(cut).expected_rps == 1050
    for samples in ([2000], [2000, 2000], [2000, 2000, 2000]):
        assert seen(after(samples, cut, now_ms=cut.at_ms)).expected_rps == pytest.approx(2000)


def test_growth_is_expected_to_go_on_until_instances_are_ready() -> None:
    series = after([1000 + 400 * number for number in range(20)])
    now = 1000 + 400 * 19
    assert now + 700 <= seen(series).expected_rps <= now + 400 * 3


def test_a_fall_is_believed_slowly() -> None:
    falling = after([1000] * 60 + [0])
    assert seen(falling).smoothed_rps == pytest.approx(905, abs=5)
    assert seen(after([0] * 60, falling, now_ms=falling.at_ms)).smoothed_rps < 10


@pytest.mark.parametrize("rps", [1, 20, 500, 10_000])
def test_noise_of_chance_moves_the_expected_demand_little(rps: int) -> None:
    random_ = random.Random(rps)
    series = after([rps] * 60)
    for _ in range(1800):
        counted = max(0, round(random_.gauss(rps, rps**0.5)))
        series = after([counted], series, now_ms=series.at_ms)
        assert seen(series).expected_rps <= rps + 2.5 * rps**0.5


def test_the_rate_does_not_depend_on_how_often_it_is_measured() -> None:
    for every_ms in (500, 1000, 5000):
        assert seen(after([every_ms // 10] * 40, every_ms=every_ms)).smoothed_rps == pytest.approx(100)


def test_between_samples_demand_goes_on_as_last_told() -> None:
    """A site that tells nothing says that nothing changed."""
    fell = after([100] * 60 + [10])
    told = after([10] * 30, fell, now_ms=fell.at_ms)
    silent = demand_of(LHR, fell, now_ms=fell.at_ms + 30_000, settings=SETTINGS)
    assert silent.smoothed_rps == pytest.approx(seen(told).smoothed_rps, rel=0.2)
    assert seen(fell).smoothed_rps > 2 * silent.smoothed_rps


def test_growth_that_is_not_confirmed_is_over() -> None:
    series = after([1000 + 400 * number for number in range(20)])
    now = demand_of(LHR, series, now_ms=series.at_ms, settings=SETTINGS)
    later = demand_of(LHR, series, now_ms=series.at_ms + 3_000, settings=SETTINGS)
    assert now.expected_rps > 1.05 * now.rps
    assert later.expected_rps == later.smoothed_rps


def test_growth_is_seen_in_samples_of_different_lengths() -> None:
    series = after([10_000], every_ms=10_000)  # 1000/s, told once in ten seconds, then it begins
    for number in range(1, 5):
        series = after([1000 + 400 * number], series, now_ms=series.at_ms)
    assert seen(series).expected_rps > 2600 + 500


def test_the_first_hour_of_the_day_is_midnight_utc() -> None:
    assert [hour_of_day(MIDNIGHT_MS + hours * HOUR_MS) for hours in (0, 1, 23, 24)] == [0, 1, 23, 0]


def test_a_day_keeps_rates_within_a_step_and_tells_nothing_from_unknown() -> None:
    for rps in (0.02, 1.0, 77.0, 25_000.0):
        day = learned(learned(UNKNOWN, 10, rps), 11, rps)
        assert usual_rps(day, MIDNIGHT_MS + 11 * HOUR_MS) == pytest.approx(rps, rel=0.05)
        assert usual_rps(day, MIDNIGHT_MS + 15 * HOUR_MS) is None
    assert usual_rps(learned(learned(UNKNOWN, 10, 0.0), 11, 0.0), MIDNIGHT_MS + 11 * HOUR_MS) == 0.0
    assert usual_rps(UNKNOWN, MIDNIGHT_MS) is None


def hours(count: int) -> Series:
    """Ten requests a second at night, a hundred from 08:00 to 20:00, and an hour that is counted in minutes."""
    series, minute_ms = Series(), 60_000
    for minute in range(count * 60):
        now_ms = MIDNIGHT_MS + (minute + 1) * minute_ms
        rps = 100 if 8 <= now_ms % DAY_MS // HOUR_MS < 20 else 10
        series = observe(series, rps * 60, minute_ms, now_ms=now_ms, settings=SETTINGS)
    return series


def test_a_daily_pattern_is_learned_and_instances_are_ready_before_the_morning() -> None:
    early = hours(24 + 6)
    assert seen(early).forecast_rps == pytest.approx(10, rel=0.1)
    before = early.at_ms + HOUR_MS + HOUR_MS // 2 + 2 * 60_000
    morning = demand_of(LHR, early, now_ms=before, settings=SETTINGS)
    assert morning.forecast_rps is not None
    assert morning.forecast_rps > 1.2 * morning.smoothed_rps
    assert morning.expected_rps == morning.forecast_rps


def test_a_day_unlike_the_pattern_is_not_forecast_by_it() -> None:
    noon = MIDNIGHT_MS + DAY_MS + 12 * HOUR_MS
    assert demand_of(LHR, after([5] * 120, hours(24), now_ms=noon), now_ms=noon, settings=SETTINGS).forecast_rps is None


def test_hours_without_a_request_are_learned_as_such_and_those_of_a_cut_off_city_are_not() -> None:
    series = after([100, 100, 0], every_ms=HOUR_MS // 2)
    silent = observe(series, 10, 1000, now_ms=series.at_ms + 5 * HOUR_MS, settings=SETTINGS)
    assert usual_rps(silent.day, MIDNIGHT_MS + 4 * HOUR_MS) == 0.0
    cut_off = observe(series, 10, 5 * HOUR_MS, now_ms=series.at_ms + 5 * HOUR_MS, settings=SETTINGS)
    assert usual_rps(cut_off.day, MIDNIGHT_MS + 4 * HOUR_MS) is None
