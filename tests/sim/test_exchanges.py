"""Whole plans in the background: apps that have to make room for one another, through the real services, in virtual time."""

import contextlib
from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace

from skerry.core.types.change import Change
from skerry.core.types.control import Course, Rebalance
from skerry.core.types.settings import Settings
from skerry.kit import record
from skerry.ports.operations import Invalid
from skerry.services.control import keys
from skerry.testing.world import World
from tests.sim.stories import play

CITIES = {"lhr": 1, "cur": 1, "sin": 1}
ROOM_MIB = 30  # of a node, which is a city here: two instances and no third
FREE = {"min_per_site": 0, "rps_per_instance": 2.0}
EVERY_MS = 498
PASS_S = 30
LONG_MS = 240_000
SIDES = {"to-cur": ("cur", "lhr"), "to-lhr": ("lhr", "cur")}  # where users of an app are, and where it runs


async def write_settings(world: World, **changes: object) -> None:
    settings = replace(Settings(), **changes)
    await world.control.store.put(keys.PLACEMENT_SETTINGS, record.encode(settings))


def counts(world: World, app: str) -> dict[str, int]:
    plan = world.plan_of(app)
    return {entry.site: entry.count for entry in plan.placements} if plan else {}


def last_pass(world: World) -> Rebalance:
    found = world.control.mirror.get(keys.LAST_REBALANCE, Rebalance)
    assert found is not None
    return found


def courses(world: World) -> list[Course]:
    return list(world.control.mirror.select(keys.COURSES, Course))


@contextlib.asynccontextmanager
async def in_one_anothers_place(world: World) -> AsyncIterator[None]:
    """Two apps, each in the city of the other one's users; both cities are full, Singapore is empty. Users ask meanwhile."""
    await write_settings(world, rebalance_every_s=0)
    async with contextlib.AsyncExitStack() as users:
        for app, (near, far) in SIDES.items():
            await world.deploy(app)
            await world.scale(app, **FREE, deny=[site for site in CITIES if site != far])
            await users.enter_async_context(world.load(app, sites=(near,), every_ms=EVERY_MS))
        await world.clock.sleep_ms(12_000)
        await world.settled()
        await write_settings(world, rebalance_every_s=0, move=1_000_000.0)
        for app in SIDES:
            await world.scale(app, deny=[])
        await world.clock.sleep_ms(5_000)
        await world.settled()
        assert {app: counts(world, app) for app in SIDES} == {app: {far: 2} for app, (_, far) in SIDES.items()}
        yield


def exchanged(world: World) -> bool:
    return all(counts(world, app) == {near: 2} and world.running(app, near) for app, (near, _) in SIDES.items())


def test_two_apps_in_one_anothers_place_are_exchanged() -> None:
    async def story(world: World) -> None:
        async with in_one_anothers_place(world):
            await write_settings(world, rebalance_every_s=PASS_S)
            await world.clock.sleep_ms(LONG_MS)
            await world.settled()
            assert exchanged(world)
            assert courses(world) == []
            said = await world.explain("to-cur")
            assert any("Moved by rebalancing: saves" in line and "together with to-lhr" in line for line in said.report)
            plans = [world.plan_of(app) for app in SIDES]
            await world.clock.sleep_ms(LONG_MS)
            assert [world.plan_of(app) for app in SIDES] == plans, "and stay so: nothing is taken back"
            assert last_pass(world).apps == 0

    play(story, CITIES, memory_mib=ROOM_MIB)


def test_an_exchange_keeps_to_the_budget_of_each_pass() -> None:
    async def story(world: World) -> None:
        async with in_one_anothers_place(world):
            await write_settings(world, rebalance_every_s=PASS_S, rebalance_moves_max=4)
            passes: set[tuple[int, int]] = set()
            for _ in range(60):
                await world.clock.sleep_ms(10_000)
                found = world.control.mirror.get(keys.LAST_REBALANCE, Rebalance)
                passes |= {(found.at_ms, found.starts)} if found else set()
            await world.settled()
            assert max(starts for _, starts in passes) <= 4
            assert sum(starts > 0 for _, starts in passes) > 1, "as a whole it would take six"
            assert exchanged(world)

    play(story, CITIES, memory_mib=ROOM_MIB)


@pytest.mark.parametrize("changes", ({"rebalance_moves_max": 2}, {"rebalance_gain_min": 5_000.0}, {"rebalance_every_s": 0}))
def test_what_does_not_pay_or_is_beyond_the_budget_is_not_begun(changes: dict[str, object]) -> None:
    async def story(world: World) -> None:
        async with in_one_anothers_place(world):
            plans = [world.plan_of(app) for app in SIDES]
            await write_settings(world, **{"rebalance_every_s": PASS_S, **changes})
            await world.clock.sleep_ms(LONG_MS)
            assert [world.plan_of(app) for app in SIDES] == plans
            assert courses(world) == []

    play(story, CITIES, memory_mib=ROOM_MIB)


def test_what_somebody_decides_meanwhile_ends_the_course() -> None:
    async def story(world: World) -> None:
        async with in_one_anothers_place(world):
            await write_settings(world, rebalance_every_s=PASS_S)
            while not courses(world):
                await world.clock.sleep_ms(500)
            (course,) = courses(world)
            await world.scale(course.step[0].app, max_total=1)
            await world.clock.sleep_ms(40_000)
            assert course.id not in {one.id for one in courses(world)}
            await world.clock.sleep_ms(LONG_MS)
            await world.settled()

    play(story, CITIES, memory_mib=ROOM_MIB)


@pytest.mark.parametrize("side", ("before", "after"))
@pytest.mark.parametrize("number", range(1, 12))
def test_control_is_killed_in_the_midst_of_an_exchange(side: str, number: int) -> None:
    async def story(world: World) -> None:
        async with in_one_anothers_place(world):
            await write_settings(world, rebalance_every_s=PASS_S)
            point = world.control.store.writes  # the pass with its course comes next, then plans, releases and steps
            world.control.store.on_write = lambda at, commit: at == side and commit == point + number and kill(world)
            await world.clock.sleep_ms(60_000)
            assert not world.control.alive
            world.control.start()
            await world.clock.sleep_ms(LONG_MS)
            await world.settled()
            assert exchanged(world)
            assert courses(world) == []

    play(story, CITIES, memory_mib=ROOM_MIB)


def kill(world: World) -> bool:
    world.control.kill()
    return True


def test_an_operator_sees_what_a_pass_would_move_and_nobody_else_does() -> None:
    async def story(world: World) -> None:
        async with in_one_anothers_place(world):
            operations, account = world.control.operations, world.account.id
            await write_settings(world, rebalance_every_s=0)
            await world.settled()
            found = await world.control.call(operations.difference(None, account, Change(rebalance=True)))
            assert {app.app: (app.gained, app.lost, app.started) for app in found.apps} == {
                app: ((near,), (far,), 2) for app, (near, far) in SIDES.items()
            }
            (remark,) = found.remarks
            assert "to-cur, to-lhr: in 3 steps" in remark
            assert {app: counts(world, app) for app in SIDES} == {app: {far: 2} for app, (_, far) in SIDES.items()}
            with pytest.raises(Invalid, match="only an operator"):
                await world.control.call(operations.difference(account, account, Change(rebalance=True)))

    play(story, CITIES, memory_mib=ROOM_MIB)


def test_an_operator_sees_an_app_that_would_move_alone_and_the_pass_moves_it() -> None:
    async def story(world: World) -> None:
        await write_settings(world, rebalance_every_s=0, move=1_000_000.0)
        await world.deploy("lonely")
        await world.scale("lonely", **FREE, deny=["cur", "sin"])
        async with world.load("lonely", sites=("cur",), every_ms=EVERY_MS):
            await world.clock.sleep_ms(12_000)
            await world.scale("lonely", deny=[])
            await world.settled()
            assert counts(world, "lonely") == {"lhr": 2}, "moving costs too much"
            await write_settings(world, rebalance_every_s=0)
            found = await world.control.call(world.control.operations.difference(None, world.account.id, Change(rebalance=True)))
            (app,) = found.apps
            assert (app.app, app.gained, app.lost, app.started) == ("lonely", ("cur",), ("lhr",), 2)
            (remark,) = found.remarks
            assert remark.startswith("lonely: saves ")
            assert "lhr 2 → 0" in remark
            await write_settings(world, rebalance_every_s=PASS_S)
            await world.clock.sleep_ms(LONG_MS)
            assert counts(world, "lonely") == {"cur": 2}

    play(story, CITIES, memory_mib=ROOM_MIB)
