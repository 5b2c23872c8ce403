"""Instances follow users: through the real services of every plane, in virtual time."""

import pytest
from msgspec.structs import replace

from skerry.core.types.control import Rebalance
from skerry.core.types.ids import AppName
from skerry.core.types.settings import Settings
from skerry.kit import record
from skerry.services.control import keys
from skerry.testing.world import World
from tests.sim.stories import CITIES, play

FREE = {"min_per_site": 0, "rps_per_instance": 2.0}
FALL_MS = 700_000  # demand that is gone is forgotten in less


def counts(world: World, app: str = "hello") -> dict[str, int]:
    """Of the plan in force."""
    plan = world.plan_of(app)
    return {entry.site: entry.count for entry in plan.placements} if plan else {}


def running(world: World, app: str = "hello") -> dict[str, int]:
    return {site: len(world.running(app, site)) for site in CITIES if world.running(app, site)}


async def free_app(world: World, app: str = "hello", **changes: object) -> None:
    await world.deploy(app)
    await world.scale(app, **{**FREE, **changes})
    await world.settled()


def test_nobody_has_asked_and_it_stays_where_most_users_are() -> None:
    async def story(world: World) -> None:
        await free_app(world)
        assert running(world) == {"lhr": 1, "sin": 1}  # few are so near to Curaçao that they would notice
        said = await world.explain("hello")
        assert any("nobody has asked yet" in line for line in said.report)

    play(story)


def test_demand_from_one_city_moves_instances_towards_it_and_back() -> None:
    async def story(world: World) -> None:
        await free_app(world)
        async with world.load("hello", sites=("cur",), every_ms=198) as tally:
            await world.clock.sleep_ms(30_000)
            assert running(world)["cur"] >= 3, "5 requests per second, and what may come, at 2 an instance"
            answered = {site for asked, site, _ in tally.answered if asked == "cur"}
            assert "cur" in answered
        assert tally.failed == []
        plan = world.plan_of("hello")
        assert plan is not None and plan.cause == "demand"
        async with world.load("hello", sites=("lhr",), every_ms=198) as tally:
            await world.clock.sleep_ms(FALL_MS)
            await world.settled()
            assert running(world)["lhr"] >= 3
            assert running(world).get("cur", 0) <= 1
        assert tally.failed == []

    play(story)


def test_a_flash_crowd_is_met_and_costs_nobody_a_request() -> None:
    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.scale("hello", rps_per_instance=1.0)
        await world.settled()
        assert running(world) == dict.fromkeys(CITIES, 1)
        async with world.load("hello", sites=("sin",), every_ms=98) as tally:
            await world.clock.sleep_ms(20_000)
            assert running(world)["sin"] >= 10
            assert running(world)["lhr"] == running(world)["cur"] == 1, "its minimum, wherever users are"
        assert tally.failed == []
        await world.clock.sleep_ms(FALL_MS)
        await world.settled()
        assert running(world) == dict.fromkeys(CITIES, 1)

    play(story)


def test_a_lost_city_moves_only_what_was_there() -> None:
    async def story(world: World) -> None:
        for app, city in (("here", "cur"), ("there", "lhr")):
            await free_app(world, app)
            async with world.load(app, sites=(city,), every_ms=198):
                await world.clock.sleep_ms(20_000)
        before = {app: counts(world, app) for app in ("here", "there")}
        world.lose_site("cur")
        await world.clock.sleep_ms(40_000)
        await world.settled()
        after = {app: counts(world, app) for app in ("here", "there")}
        for app, had in before.items():
            assert "cur" not in after[app]
            assert all(after[app].get(site, 0) >= count for site, count in had.items() if site != "cur"), app
        assert world.running("here") and "cur" not in running(world, "here")
        world.return_site("cur")

    play(story)


def test_a_drained_city_is_left_for_the_next_best_and_explain_says_why() -> None:
    async def story(world: World) -> None:
        await free_app(world, deny=["lhr"])
        async with world.load("hello", sites=("cur",), every_ms=198) as tally:
            await world.clock.sleep_ms(20_000)
            assert running(world)["cur"] >= 3
            await world.drain("cur")
            await world.clock.sleep_ms(20_000)
            await world.settled()
            assert set(running(world)) == {"sin"}
            verdicts = {verdict.site: verdict for verdict in (await world.explain("hello")).verdicts}
            assert "drained" in " ".join(verdicts["cur"].reasons)
            assert "deny" in " ".join(verdicts["lhr"].reasons)
            await world.undrain("cur")
            await world.clock.sleep_ms(20_000)
            await world.settled()
            assert running(world)["cur"] >= 3
        assert tally.failed == []

    play(story)


def test_an_unchanged_world_moves_nothing() -> None:
    async def story(world: World) -> None:
        await write_settings(world, rebalance_every_s=20)
        for number in range(6):
            await free_app(world, f"app-{number}", rps_per_instance=0.5 * (number + 1))
        async with world.load("app-1", sites=("cur",), every_ms=198), world.load("app-2", sites=("lhr",), every_ms=498):
            await world.clock.sleep_ms(200_000)
            plans = [plan.id if (plan := world.plan_of(f"app-{number}")) else "" for number in range(6)]
            await world.clock.sleep_ms(200_000)
            after = [plan.id if (plan := world.plan_of(f"app-{number}")) else "" for number in range(6)]
            assert after == plans
            assert last_pass(world).looked_at == 6
            assert last_pass(world).apps == 0

    play(story)


async def write_settings(world: World, **changes: object) -> None:
    settings = replace(Settings(), **changes)
    await world.control.store.put(keys.PLACEMENT_SETTINGS, record.encode(settings))


def last_pass(world: World) -> Rebalance:
    found = world.control.mirror.get(keys.LAST_REBALANCE, Rebalance)
    assert found is not None
    return found


async def in_the_wrong_place(world: World, apps: int) -> None:
    """Apps with users in cur only, which run in lhr: a drain sent them there, and nothing since asked for another decision."""
    await write_settings(world, rebalance_every_s=0)
    for number in range(apps):
        await free_app(world, f"app-{number}", deny=["sin", "cur"])
    for number in range(apps):
        async with world.load(f"app-{number}", sites=("cur",), every_ms=498):
            await world.clock.sleep_ms(8_000)
    await write_settings(world, rebalance_every_s=0, move=1_000_000.0)
    await world.settled()
    for number in range(apps):
        await world.scale(f"app-{number}", deny=["sin"])
    await world.settled()
    assert {site for number in range(apps) for site in running(world, f"app-{number}")} == {"lhr"}


def test_the_background_pass_moves_what_gains_most_within_its_budget() -> None:
    async def story(world: World) -> None:
        await in_the_wrong_place(world, 3)
        await write_settings(world, rebalance_every_s=30, rebalance_moves_max=4)
        await world.clock.sleep_ms(40_000)
        await world.settled()
        moved = [number for number in range(3) if "cur" in running(world, f"app-{number}")]
        assert moved and last_pass(world).starts <= 4
        plan = world.plan_of(f"app-{moved[0]}")
        assert plan is not None and plan.cause == "rebalance" and plan.gain > 50
        assert any("Moved by rebalancing: saves" in line for line in plan.report)
        await world.clock.sleep_ms(120_000)
        assert all("cur" in running(world, f"app-{number}") for number in range(3))

    play(story)


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("number", range(1, 5))
def test_control_is_killed_in_the_midst_of_a_rebalance(side: str, number: int) -> None:
    async def story(world: World) -> None:
        await in_the_wrong_place(world, 2)
        await write_settings(world, rebalance_every_s=30, rebalance_moves_max=100)
        point = world.control.store.writes + number  # the pass itself, a plan or two, and their releases
        world.control.store.on_write = lambda at, commit: at == side and commit == point and kill(world)
        async with world.load("app-0", sites=("cur",), every_ms=498) as tally:
            await world.clock.sleep_ms(10_000)
            assert not world.control.alive
            world.control.start()
            await world.clock.sleep_ms(60_000)
            await world.converged()
        assert tally.failed == []
        assert all("cur" in running(world, f"app-{number}") for number in range(2))

    play(story)


def kill(world: World) -> bool:
    world.control.kill()
    return True


def test_an_app_for_which_there_is_no_room_says_so_and_takes_it_when_it_comes() -> None:
    async def story(world: World) -> None:
        await free_app(world, rps_per_instance=0.2, allow=["sin"])
        async with world.load("hello", sites=("sin",), every_ms=198):
            await world.clock.sleep_ms(20_000)
            plan = world.plan_of("hello")
            assert plan is not None and plan.unserved_rps > 0
            view = await world.view("hello")
            assert view.rollout.state == "blocked" and AppName("hello") == view.app
            before = running(world)["sin"]
            world.add_node("sin-2")
            await world.clock.sleep_ms(20_000)
            assert running(world)["sin"] > before

    play(story, {"lhr": 1, "cur": 1, "sin": 1}, memory_mib=100)
