"""Users counted where they come in, and what control makes of it: through the real services, in virtual time."""

import pytest

from skerry.adapters.clock import simulated
from skerry.core.machines.asked import AskedSettings
from skerry.core.machines.demand import DemandSettings
from skerry.core.machines.pattern import HOUR_MS
from skerry.core.types.demand import DailyDemand
from skerry.core.types.ids import AppName, SiteId
from skerry.core.types.view import CityDemand, DemandView
from skerry.services.control import keys, traffic
from skerry.testing.world import World
from tests.sim.stories import play


async def demand_of(world: World, app: str = "hello") -> DemandView:
    return await world.control.call(world.control.operations.demand(world.account.id, AppName(app)))


async def asked_in(world: World, site: str) -> CityDemand:
    return next(city for city in (await demand_of(world)).cities if city.site == site)


def near(rps: float, expected: float) -> bool:
    return abs(rps - expected) <= 0.1 * expected


def test_demand_is_known_by_city_and_told() -> None:
    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.settled()
        async with world.load("hello", sites=("sin",), every_ms=18):  # and 2 ms for the answer
            await world.clock.sleep_ms(20_000)
            found = await demand_of(world)
            assert near(found.rps, 50)
            assert {city.site: city.rps > 0 for city in found.cities} == {"cur": False, "lhr": False, "sin": True}
            said = await world.explain("hello", "sin")
            assert "users who come in here ask for 5" in " ".join(said.verdicts[0].reasons)
        await world.clock.sleep_ms(15_000)
        assert (await asked_in(world, "sin")).rps == 0

    play(story)


def test_a_request_counts_in_the_city_where_it_came_in() -> None:
    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.scale("hello", allow=["lhr"])
        await world.settled()
        async with world.load("hello", sites=("cur",), every_ms=100) as tally:
            await world.clock.sleep_ms(15_000)
            assert near((await asked_in(world, "cur")).rps, 1000 / 122)
            assert (await asked_in(world, "lhr")).rps == 0
        assert {(asked, answered) for asked, answered, _ in tally.answered} == {("cur", "lhr")}

    play(story)


def test_counts_survive_lost_reports_and_killed_controls() -> None:
    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.settled()
        async with world.load("hello", sites=("cur",), every_ms=18) as tally:
            for _ in range(3):
                await world.clock.sleep_ms(4_000)
                world.control.kill()
                await world.clock.sleep_ms(3_000)
                world.control.start()
                world.sites["cur"].wire.cut = True
                await world.clock.sleep_ms(4_000)
                world.sites["cur"].wire.cut = False
            await world.clock.sleep_ms(12_000)
            assert near((await asked_in(world, "cur")).rps, 50)
        await world.clock.sleep_ms(12_000)
        city = await asked_in(world, "cur")
        assert city.requests == tally.answered.total() > 1_000
        assert city.errors == len(tally.failed) == 0

    play(story)


def test_what_a_versions_instances_make_of_requests_is_counted_for_the_health_gate() -> None:
    async def story(world: World) -> None:
        version = await world.deploy("hello")
        await world.settled()
        async with world.load("hello", sites=("lhr",), every_ms=18):
            await world.clock.sleep_ms(25_000)
            found = world.control.observed.traffic.facts(SiteId("lhr"), world.account.id, AppName("hello"))[version.id]
            assert found.requests > 500
            assert found.errors == 0
            assert near(found.latency_ms_sum / found.requests, 2)

    play(story)


def asked_of(world: World) -> dict[str, float]:
    return {str(site): rps for site, rps in world.control.observed.asked(world.account.id, AppName("hello")).items()}


def test_what_placement_plans_for_rises_at_once_is_known_to_the_next_control_and_falls_slowly() -> None:
    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.settled()
        assert asked_of(world) == {}
        async with world.load("hello", sites=("sin",), every_ms=9):
            await world.clock.sleep_ms(3_000)
            assert asked_of(world)["sin"] > 91
            await world.scale("hello", min_per_site=2)  # any plan remembers what it was decided on
            await world.settled()
            await world.clock.sleep_ms(20_000)
            before = asked_of(world)
            assert set(before) == {"sin"}
            world.control.kill()
            world.control.start()
            await world.clock.sleep_ms(500)
            assert asked_of(world)["sin"] == pytest.approx(before["sin"], rel=0.3)
        await world.clock.sleep_ms(200_000)
        assert asked_of(world)["sin"] > 91
        await world.clock.sleep_ms(1_500_000)
        assert asked_of(world)["sin"] == pytest.approx(0.02, rel=AskedSettings().fall_share)

    play(story)


def test_users_of_a_city_that_is_lost_are_asked_for_where_they_come_in_then() -> None:
    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.settled()
        async with world.load("hello", sites=("sin",), every_ms=9):
            await world.clock.sleep_ms(5_000)
        world.lose_site("sin")
        async with world.load("hello", sites=("cur",), every_ms=9):
            await world.clock.sleep_ms(20_000)
            assert set(asked_of(world)) == {"cur"}
        world.return_site("sin")
        await world.clock.sleep_ms(10_000)
        assert asked_of(world)["sin"] > 91

    play(story)


def days_of(world: World) -> dict[SiteId, bytes]:
    return world.control.observed.traffic.days((world.account.id, AppName("hello")), {})


def test_what_an_hour_brought_is_known_to_the_next_control_and_goes_with_its_app(monkeypatch: pytest.MonkeyPatch) -> None:
    """The world begins a minute before the hour is over; so much of it is enough here."""
    monkeypatch.setattr(simulated, "EPOCH_MS", 472_223 * HOUR_MS - 60_000)
    monkeypatch.setattr(traffic, "DemandSettings", lambda: DemandSettings(hour_ms_min=20_000))

    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.settled()
        async with world.load("hello", sites=("sin",), every_ms=18):
            await world.clock.sleep_ms(50_000)
            assert days_of(world) == {}
            await world.clock.sleep_ms(20_000)
            learnt = days_of(world)
        assert set(learnt) == {"sin"}
        world.control.kill()
        world.control.start()
        await world.clock.sleep_ms(3_000)
        assert days_of(world) == learnt
        await world.delete("hello")
        await world.settled()
        assert world.checks.held(keys.DAILY_DEMAND, DailyDemand) == []

    play(story)
