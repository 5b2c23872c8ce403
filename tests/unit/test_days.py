"""What each hour of the day brings survives a control: what is kept, what is not, and what it is worth to the next one."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from msgspec import ValidationError

from skerry.adapters.store.sqlite import SqliteStore
from skerry.core.machines.pattern import HOUR_MS, UNKNOWN, learned
from skerry.core.types.control import SiteIntent
from skerry.core.types.demand import AppTraffic, DailyDemand, SiteDemand, SiteTraffic
from skerry.core.types.ids import AccountId, AppName, SiteId
from skerry.kit import record
from skerry.ports.store import Delete, Store
from skerry.services.control import keys
from skerry.services.control.days import APPS_MAX, Days
from skerry.services.control.mirror import Mirror
from skerry.services.control.observed import Observed
from skerry.services.control.traffic import Traffic
from skerry.testing.builders import ACCOUNT, make_app, make_site

SHOP = (ACCOUNT, AppName("shop"))
LHR, CUR = SiteId("lhr"), SiteId("cur")
MIDNIGHT_MS = 20_000 * 24 * HOUR_MS
MINUTE_MS = 60_000


class Clock:
    """Turned by hand."""

    def __init__(self) -> None:
        self.at_ms = MIDNIGHT_MS

    def now_ms(self) -> int:
        return self.at_ms

    def monotonic_ms(self) -> int:
        return self.at_ms - MIDNIGHT_MS

    async def sleep_ms(self, delay_ms: int) -> None:
        raise NotImplementedError


class Control:
    """As much of one as learns, on a store."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.clock = clock
        self.mirror = Mirror(store)
        self.observed = Observed(clock)
        self.days = Days(store, self.mirror, self.observed)

    async def start(self) -> None:
        await self.mirror.load()
        self.observed.recall((), self.mirror.select(keys.DAILY_DEMAND, DailyDemand))

    async def step(self) -> None:
        await self.mirror.load()
        await self.days.step()
        await self.mirror.load()

    def held(self, key: tuple[AccountId, AppName] = SHOP) -> dict[SiteId, bytes]:
        found = self.mirror.get(keys.daily_demand(*key), DailyDemand)
        return found.days if found else {}

    def count(self, rps: int, *, site: SiteId = LHR, apps: tuple[AppName, ...] = (SHOP[1],)) -> None:
        """A minute of users."""
        at_ms = self.clock.monotonic_ms()
        told = tuple(
            AppTraffic(
                account=ACCOUNT, app=app, since_ms=at_ms - MINUTE_MS, at_ms=at_ms, new=rps * 60, requests=rps * at_ms // 1000
            )
            for app in apps
        )
        self.observed.traffic.hear(site, "epoch", SiteTraffic(at_ms=at_ms, apps=told), now_ms=self.clock.now_ms())

    def hours(self, count: int, rps: int, **more: SiteId) -> None:
        for _ in range(count * 60):
            self.clock.at_ms += MINUTE_MS
            self.count(rps, **more)

    def demand(self) -> SiteDemand:
        return next(e for e in self.observed.traffic.of(SHOP, now_ms=self.clock.now_ms()) if e.site == LHR)


def on_store(path: Path, story: Callable[[Store, Clock], Awaitable[None]]) -> None:
    async def begin() -> None:
        store = await SqliteStore.open(path / "store.db")
        try:
            for name in ("lhr", "cur"):
                site = make_site(name)
                await store.put(keys.site(site.id), record.encode(SiteIntent(site=site)))
            await store.put(keys.app(*SHOP), record.encode(make_app("shop")))
            await story(store, Clock())
        finally:
            await store.aclose()

    asyncio.run(begin())


def test_the_next_control_forecasts_by_what_the_last_one_learned(tmp_path: Path) -> None:
    async def story(store: Store, clock: Clock) -> None:
        first = Control(store, clock)
        await first.start()
        for rps in (10, 10, 10, 100):
            first.hours(1, rps)
            await first.step()
        first.hours(21, 10)
        await first.step()
        next_ = Control(store, clock)
        await next_.start()
        blank = Control(store, clock)
        clock.at_ms += HOUR_MS + HOUR_MS // 2 - 2 * MINUTE_MS  # 02:28, the rise to the fourth hour is near
        for control in (next_, blank):
            control.count(10)
        assert blank.demand().forecast_rps is None
        forecast = next_.demand().forecast_rps
        assert forecast is not None
        assert forecast > 12

    on_store(tmp_path, story)


def test_an_hour_is_written_once_when_it_is_over(tmp_path: Path) -> None:
    async def story(store: Store, clock: Clock) -> None:
        control = Control(store, clock)
        await control.start()
        control.hours(1, 50)
        control.count(50)
        await control.step()
        written = control.mirror.revision
        assert control.held()[LHR][0] > 1
        for _ in range(58):
            clock.at_ms += MINUTE_MS
            control.count(50)
            await control.step()
        assert control.mirror.revision == written

    on_store(tmp_path, story)


def test_days_that_tell_nothing_are_not_kept_and_sites_that_are_gone_neither(tmp_path: Path) -> None:
    async def story(store: Store, clock: Clock) -> None:
        control = Control(store, clock)
        await control.start()
        control.hours(2, 0)
        await control.step()
        assert control.held() == {}
        control.hours(2, 5)
        await control.step()
        assert set(control.held()) == {LHR}
        await store.transact((), (Delete(key=keys.site(LHR)),))
        control.hours(2, 20, site=CUR)
        await control.step()
        assert set(control.held()) == {CUR}

    on_store(tmp_path, story)


def test_a_pattern_that_is_no_habit_any_more_is_let_go(tmp_path: Path) -> None:
    async def story(store: Store, clock: Clock) -> None:
        control = Control(store, clock)
        await control.start()
        control.hours(24, 5)
        await control.step()
        assert set(control.held()) == {LHR}
        for _ in range(12):
            control.hours(24, 0)
            await control.step()
        assert control.held() == {}

    on_store(tmp_path, story)


def test_what_another_control_learned_elsewhere_is_kept(tmp_path: Path) -> None:
    async def story(store: Store, clock: Clock) -> None:
        one, two = Control(store, clock), Control(store, clock)
        await one.start()
        await two.start()
        one.hours(2, 50, site=LHR)
        two.hours(2, 50, site=CUR)
        await one.step()
        await two.step()
        assert set(two.held()) == {LHR, CUR}
        await one.step()
        one.hours(1, 60, site=LHR)
        await one.step()
        assert set(one.held()) == {LHR, CUR}

    on_store(tmp_path, story)


def test_nothing_is_written_of_an_app_that_was_deleted_meanwhile(tmp_path: Path) -> None:
    async def story(store: Store, clock: Clock) -> None:
        control = Control(store, clock)
        await control.start()
        control.hours(2, 50)
        await store.transact((), (Delete(key=keys.app(*SHOP)),))
        await control.days.step()  # its mirror does not know yet
        await control.step()
        assert await store.get(keys.daily_demand(*SHOP)) is None

    on_store(tmp_path, story)


def test_many_apps_are_written_in_parts_and_one_that_changed_holds_up_no_other(tmp_path: Path) -> None:
    async def story(store: Store, clock: Clock) -> None:
        names = tuple(AppName(f"app-{number:03d}") for number in range(APPS_MAX + 5))
        for name in names:
            await store.put(keys.app(ACCOUNT, name), record.encode(make_app(name)))
        control = Control(store, clock)
        await control.start()
        for _ in range(61):
            clock.at_ms += MINUTE_MS
            control.count(50, apps=names)
        await store.put(keys.app(ACCOUNT, names[3]), record.encode(make_app(names[3])))
        await control.days.step()
        await control.mirror.load()
        assert [name for name in names if not control.held((ACCOUNT, name))] == [names[3], *names[APPS_MAX:]]
        await control.step()
        assert all(control.held((ACCOUNT, name)) for name in names)

    on_store(tmp_path, story)


def test_what_is_recalled_is_no_demand_and_is_forgotten_with_its_app() -> None:
    traffic, day = Traffic(), learned(UNKNOWN, 3, 50.0)
    traffic.recall_days((DailyDemand(account=SHOP[0], app=SHOP[1], days={LHR: day}),))
    assert traffic.of(SHOP, now_ms=MIDNIGHT_MS) == ()
    assert traffic.days(SHOP, {}) == {LHR: day}
    traffic.keep(frozenset(), frozenset({LHR}))
    assert traffic.days(SHOP, {}) == {}


def test_a_day_has_24_hours() -> None:
    raw = record.encode(DailyDemand(account=SHOP[0], app=SHOP[1], days={LHR: UNKNOWN}))
    assert record.decode(raw, DailyDemand).days == {LHR: UNKNOWN}
    with pytest.raises(ValidationError, match="24 hours"):
        record.decode(raw.replace(b"AAAA", b"", 1), DailyDemand)
