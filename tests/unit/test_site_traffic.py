"""What a site tells control of its users: enough to know every app's demand, and no more."""

import random

import pytest

from skerry.core.types.demand import AppTraffic, SiteTraffic
from skerry.core.types.ids import AccountId, AppName, InstanceId, SiteId, VersionId
from skerry.ports.ingress import AppCount, Counts, InstanceCount
from skerry.services.control.traffic import Traffic as Heard
from skerry.services.site.traffic import Traffic, TrafficSettings

ACCOUNT, LHR = AccountId("a" * 32), SiteId("lhr")
ONE, TWO = VersionId("one"), VersionId("two")
START_MS, WALL_MS = 5_000, 1_800_000_000_000
INSTANCES = {InstanceId("i1"): (ACCOUNT, AppName("shop"), ONE), InstanceId("i2"): (ACCOUNT, AppName("shop"), TWO)}


class Site:
    """A site and a control, a count and a report a second."""

    def __init__(self, settings: TrafficSettings | None = None) -> None:
        self.traffic, self.heard = Traffic(START_MS, settings), Heard()
        self.at_ms = START_MS
        self.epoch = "first"

    def count(self, requests: dict[str, int], *, served: dict[str, int] | None = None) -> bool:
        self.at_ms += 1000
        apps = [AppCount(account=ACCOUNT, app=AppName(app), requests=n, errors=n // 10) for app, n in sorted(requests.items())]
        instances = [
            InstanceCount(instance=InstanceId(name), requests=n, errors=0, latency_ms_sum=7 * n)
            for name, n in sorted((served or {}).items())
        ]
        return self.traffic.add(Counts(apps=tuple(apps), instances=tuple(instances)), INSTANCES, now_ms=self.at_ms)

    def hear(self, sent: SiteTraffic) -> None:
        self.heard.hear(LHR, self.epoch, sent, now_ms=WALL_MS + self.at_ms)

    def report(self, *, lost: bool = False, unanswered: bool = False) -> tuple[AppTraffic, ...]:
        sent = self.traffic.report()
        if not lost:
            self.hear(sent)
            if not unanswered:
                self.traffic.told(sent)
        return sent.apps

    def rps(self, app: str = "shop") -> float:
        (found,) = self.heard.of((ACCOUNT, AppName(app)), now_ms=WALL_MS + self.at_ms)
        return found.rps


def test_a_steady_app_is_told_seldom_and_an_idle_one_never() -> None:
    site, noise, told = Site(), random.Random(1), 0
    for _ in range(120):
        site.count({"shop": max(0, round(noise.gauss(400, 20)))})
        told += len(site.report())
    assert 12 <= told <= 16
    assert site.rps() == pytest.approx(400, rel=0.1)
    for _ in range(30):
        site.count({})
        told = len(site.report())
    assert told == 0
    assert site.rps() == 0


def test_a_jump_and_a_fall_are_told_with_the_next_report() -> None:
    site = Site()
    assert site.count({"shop": 100}), "from nothing"
    for _ in range(38):
        site.report()
        assert not site.count({"shop": 100})
    assert site.count({"shop": 500})
    site.report()
    assert site.rps() == 500
    assert not site.count({"shop": 500})
    site.count({"shop": 50})
    site.report()
    assert site.rps() == 50


def test_a_slow_drift_is_told_when_it_is_beyond_chance() -> None:
    site = Site()
    for second in range(200):
        site.count({"shop": 100 + second})
        site.report()
        assert site.rps() == pytest.approx(100 + second, rel=0.15)


def test_an_app_that_wakes_is_not_measured_over_the_time_it_slept() -> None:
    site = Site()
    site.count({"shop": 3})
    for _ in range(3600):
        site.count({})
        site.report()
    site.count({"shop": 80})
    site.report()
    assert site.rps() == 80


def test_nothing_is_lost_or_counted_twice_whatever_happens_to_reports() -> None:
    site, chance, asked = Site(), random.Random(7), 0
    for _ in range(200):
        count = chance.randrange(0, 300)
        asked += count
        site.count({"shop": count})
        sent = site.traffic.report()
        for _ in range(chance.choice((0, 1, 2))):  # lost, or delivered twice
            site.hear(sent)
        if chance.random() < 0.5:
            site.traffic.told(sent)
    for _ in range(12):
        site.count({})
        site.report()
    known = site.heard.told((ACCOUNT, AppName("shop")), LHR)
    assert known is not None
    assert known.requests == asked
    assert site.rps() == 0


def test_a_control_that_was_away_learns_what_is_asked_now() -> None:
    site = Site()
    for _ in range(20):
        site.count({"shop": 100})
        site.report()
    for _ in range(60):
        site.count({"shop": 200})
        site.report(lost=True)
    site.heard = Heard()  # another control
    site.report()
    assert site.rps() == 200


def test_an_answer_that_was_lost_makes_no_demand_of_it() -> None:
    site = Site()
    for _ in range(20):
        site.count({"shop": 100})
        site.report(unanswered=True)
        assert site.rps() == pytest.approx(100)


def test_a_restarted_site_begins_anew() -> None:
    site = Site()
    for _ in range(20):
        site.count({"shop": 100})
        site.report()
    site.traffic, site.epoch = Traffic(site.at_ms), "second"
    site.count({"shop": 60})
    site.report()
    assert site.rps() == 60


def test_a_report_has_few_apps_and_first_those_that_changed() -> None:
    site = Site(TrafficSettings(apps_max=5))
    busy = {f"app-{number:02d}": 50 for number in range(40)}
    for _ in range(20):
        site.count(busy)
        assert len(site.report()) <= 5
    site.count({**busy, "app-33": 5000})
    assert "app-33" in {app.app for app in site.report()}
    for _ in range(20):
        site.count(busy)
        site.report()
    assert all(site.rps(app) == pytest.approx(50) for app in busy), "every one has its turn"


def test_versions_are_counted_each_and_during_a_rollout_told_at_once() -> None:
    site = Site()
    for _ in range(15):
        site.count({"shop": 100}, served={"i1": 100})
        site.report()
    site.count({"shop": 100}, served={"i1": 90, "i2": 10})
    site.report()
    facts = site.heard.facts(LHR, ACCOUNT, AppName("shop"))
    assert {version: (entry.requests, entry.latency_ms_sum) for version, entry in facts.items()} == {
        ONE: (1590, 7 * 1590),
        TWO: (10, 70),
    }


def test_what_is_not_there_any_more_is_forgotten_once_it_was_told() -> None:
    site = Site()
    site.count({"shop": 100}, served={"i1": 60, "i2": 40})
    site.traffic.keep(set(), set())
    (app,) = site.report()
    assert app.requests == 100
    assert [version.requests for version in app.versions] == [60, 40]
    site.traffic.keep({(ACCOUNT, AppName("shop"))}, {(ACCOUNT, AppName("shop"), TWO)})
    told: tuple[AppTraffic, ...] = ()
    for _ in range(12):
        site.count({}, served={"i2": 1})
        site.traffic.keep({(ACCOUNT, AppName("shop"))}, {(ACCOUNT, AppName("shop"), TWO)})
        told = site.report() or told
    assert [version.version for version in told[0].versions] == [TWO]
    site.heard.keep(frozenset(), frozenset({LHR}))
    assert site.heard.of((ACCOUNT, AppName("shop")), now_ms=WALL_MS) == ()
