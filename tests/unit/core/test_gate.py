"""The health gate: what counts as evidence against a version, and what does not."""

import random

import pytest

from skerry.core.machines.gate import CityFacts, GateSettings, judge, since, upper_rate
from skerry.core.types.gate import VersionFacts
from skerry.core.types.ids import SiteId

SETTINGS = GateSettings()


def facts(requests: int, errors: int = 0, mean_ms: float = 20.0) -> VersionFacts:
    square = 2 * mean_ms * mean_ms * requests  # as of an exponential latency
    return VersionFacts(requests=requests, errors=errors, latency_ms_sum=mean_ms * requests, latency_ms2_sum=square)


def city(name: str, old: VersionFacts, new: VersionFacts) -> CityFacts:
    return CityFacts(site=SiteId(name), old=old, new=new)


NOTHING = VersionFacts()
GOOD = facts(10_000, 10)


@pytest.mark.parametrize(
    ("new", "verdict"),
    [
        (NOTHING, "silent"),
        (facts(1), "open"),
        (facts(1, 1), "open"),  # one failure may be anything
        (facts(12, 12), "worse"),
        (facts(100, 20), "worse"),
        (facts(2_000, 2), "good"),
        (facts(5_000, 100), "worse"),
        (facts(2_000, 2, mean_ms=40.0), "worse"),
        (facts(2_000, 2, mean_ms=22.0), "good"),
    ],
)
def test_a_verdict_follows_from_what_was_counted(new: VersionFacts, verdict: str) -> None:
    assert judge([city("lhr", GOOD, new)], NOTHING, SETTINGS).verdict == verdict


def test_a_bad_verdict_says_the_numbers() -> None:
    numbers = judge([city("lhr", GOOD, facts(100, 50, mean_ms=20.0))], NOTHING, SETTINGS)
    assert "50.00 % of 100 requests failed, before 0.10 % of 10000" in numbers.detail
    assert (numbers.requests, numbers.errors, numbers.old_requests) == (100, 50, 10_000)


def test_without_any_knowledge_of_the_old_version_nothing_is_held_against_the_new() -> None:
    assert judge([city("lhr", NOTHING, facts(1_000, 900))], NOTHING, SETTINGS).verdict == "open"


def test_a_city_with_few_requests_of_its_own_is_judged_by_the_others() -> None:
    cities = [city("cur", facts(5), facts(60, 30)), city("lhr", GOOD, facts(1))]
    assert judge(cities, NOTHING, SETTINGS).verdict == "worse"


def test_a_city_that_always_failed_more_is_not_blamed_on_the_new_version() -> None:
    sick = city("cur", facts(5_000, 1_000), facts(500, 100))
    assert judge([sick, city("lhr", GOOD, facts(500))], NOTHING, SETTINGS).verdict == "good"


def test_trouble_that_strikes_the_old_version_elsewhere_as_well_blames_nobody() -> None:
    struck = [city("lhr", GOOD, facts(500, 100))]
    assert judge(struck, NOTHING, SETTINGS).verdict == "worse"
    assert judge(struck, facts(5_000, 1_000), SETTINGS).verdict != "worse"


@pytest.mark.parametrize(("old_ms", "new_ms"), [(0.0, 50.0), (2.0, 50.0), (2.0, 300.0), (20.0, 300.0), (200.0, 2_000.0)])
def test_a_far_slower_version_is_worse_with_its_first_hundred_requests_and_never_good(old_ms: float, new_ms: float) -> None:
    """Without squares, as ingresses count. It used to take thousands, and the canary was waved on long before."""
    old = VersionFacts(requests=1_000, latency_ms_sum=1_000 * old_ms)
    for requests in range(1, 100):
        new = VersionFacts(requests=requests, latency_ms_sum=requests * new_ms)
        assert judge([city("lhr", old, new)], NOTHING, SETTINGS).verdict == "open"
    numbers = judge([city("lhr", old, VersionFacts(requests=100, latency_ms_sum=100 * new_ms))], NOTHING, SETTINGS)
    assert numbers.verdict == "worse"
    assert f"answers take {new_ms:.0f} ms in the mean, before {old_ms:.0f} ms" in numbers.detail


def test_a_version_is_not_good_before_it_is_known_how_fast_it_is() -> None:
    """Its errors alone are known to be few enough after some 40 requests."""
    old = facts(300)
    found = {requests: judge([city("lhr", old, facts(requests))], NOTHING, SETTINGS).verdict for requests in (60, 99, 100)}
    assert found == {60: "open", 99: "open", 100: "good"}


def test_a_pause_of_the_machine_is_not_blamed_on_a_version_of_few_milliseconds() -> None:
    old = VersionFacts(requests=1_000, latency_ms_sum=2_000)
    paused = VersionFacts(requests=100, latency_ms_sum=200 + 4 * 500)  # four requests waited half a second
    assert judge([city("lhr", old, paused)], NOTHING, SETTINGS).verdict != "worse"


def test_where_the_old_version_was_hardly_asked_its_speed_is_no_standard() -> None:
    cities = [city("lhr", facts(60), facts(2_000, mean_ms=500.0)), city("cur", facts(60), facts(1))]
    assert judge(cities, facts(5_000), SETTINGS).verdict == "good"


def test_the_order_of_cities_changes_nothing() -> None:
    cities = [city(name, facts(1_000 + n, n), facts(100 + n, n)) for n, name in enumerate(("lhr", "cur", "sin"))]
    assert judge(cities, NOTHING, SETTINGS) == judge(cities[::-1], NOTHING, SETTINGS)


def test_counters_that_begin_anew_are_taken_as_they_are() -> None:
    assert since(facts(10, 1), facts(4)) == VersionFacts(requests=6, errors=1, latency_ms_sum=120.0, latency_ms2_sum=4_800.0)
    assert since(facts(3), facts(4)) == facts(3)


def test_an_upper_rate_is_never_below_what_was_seen() -> None:
    assert upper_rate(NOTHING, 2.0) == 1.0
    for errors in (0, 1, 50, 100):
        assert errors / 100 <= upper_rate(facts(100, errors), 2.0) <= 1.0


def looked_at_all_the_time(rate: float, dice: random.Random, *, requests: int, mean_ms: float = 20.0) -> tuple[str, int]:
    """The first verdict that ends a rollout when somebody looks after every tenth request; how many it took."""
    base = facts(20_000, sum(dice.random() < 0.01 for _ in range(20_000)))
    errors = latency = square = 0.0
    for number in range(1, requests + 1):
        errors += dice.random() < rate
        took_ms = dice.expovariate(1 / mean_ms)
        latency, square = latency + took_ms, square + took_ms**2
        if number % 10 == 0:
            new = VersionFacts(requests=number, errors=int(errors), latency_ms_sum=latency, latency_ms2_sum=square)
            if judge([city("lhr", base, new)], NOTHING, SETTINGS).verdict == "worse":
                return "worse", number
    return "open", requests


def test_a_version_as_good_as_the_old_one_is_hardly_ever_taken_back_however_often_one_looks() -> None:
    dice = random.Random(1)
    found = [looked_at_all_the_time(0.01, dice, requests=2_000)[0] for _ in range(100)]
    assert found.count("worse") <= 3, "alpha is 1 %"


def test_chance_alone_makes_no_version_slower_however_often_one_looks() -> None:
    """Heavy tails (deviation twice the mean), and nobody adds up squares."""
    dice, worse = random.Random(3), 0
    for _ in range(60):
        old = VersionFacts(requests=1_000, latency_ms_sum=sum(dice.lognormvariate(2.2, 1.27) for _ in range(1_000)))
        took_ms = 0.0
        for requests in range(10, 1_510, 10):
            took_ms += sum(dice.lognormvariate(2.2, 1.27) for _ in range(10))
            new = VersionFacts(requests=requests, latency_ms_sum=took_ms)
            if judge([city("lhr", old, new)], NOTHING, SETTINGS).verdict == "worse":
                worse += 1
                break
    assert worse <= 2, "alpha is 1 %"


def test_a_bad_version_is_found_soon() -> None:
    dice = random.Random(2)
    found = [looked_at_all_the_time(0.5, dice, requests=200) for _ in range(50)]
    assert all(verdict == "worse" for verdict, _ in found)
    assert sorted(number for _, number in found)[45] <= 20
    slow = [looked_at_all_the_time(0.01, dice, requests=2_000, mean_ms=60.0) for _ in range(20)]
    assert all(verdict == "worse" for verdict, _ in slow)
