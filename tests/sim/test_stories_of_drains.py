"""Drains with nowhere to go: make before break, in one city and between cities."""

import pytest

from skerry.core.types.plan import Placement
from skerry.core.types.slices import SERVING_STATES
from skerry.testing.world import World
from tests.sim.stories import BAD, play, ways

TWO = {"lhr": 1, "cur": 1}


async def fill(world: World, site: str, name: str) -> None:
    """An app that leaves no room in `site`, and that runs nowhere else."""
    await world.deploy(name)
    await world.scale(name, allow=[site], min_per_site=2)
    await world.settled()


def serving(world: World, app: str) -> set[str]:
    return {
        node.id
        for node in world.nodes.values()
        for cell in node.machine.cells.values()
        if cell.instance.version.app == app and cell.life.state in SERVING_STATES
    }


def test_draining_the_only_city_with_room_keeps_the_app_until_there_is_room_elsewhere() -> None:
    """It used to take the app down."""

    async def story(world: World) -> None:
        await fill(world, "cur", "filler")
        await world.deploy("hello")
        await world.settled()
        assert serving(world, "hello") == {"lhr-1"}
        async with world.load("hello") as tally:
            await world.drain("lhr")
            await world.settled()
            assert serving(world, "hello") == {"lhr-1"}
            said = await world.explain("hello", "lhr")
            assert "serves until there is room elsewhere" in "; ".join(said.verdicts[0].reasons)
            await world.delete("filler")
            await world.settled()
            assert serving(world, "hello") == {"cur-1"}, "it has left as soon as it could"
        assert tally.failed == []
        assert {found[:2] for found in (await ways(world)).values()} == {(200, "cur")}

    play(story, TWO, memory_mib=26)


def test_draining_the_only_node_with_room_keeps_the_app() -> None:
    async def story(world: World) -> None:
        await fill(world, "cur", "filler")
        await world.deploy("hello")
        await world.settled()
        async with world.load("hello") as tally:
            await world.drain("lhr-1")
            await world.settled()
            assert serving(world, "hello") == {"lhr-1"}
            await world.delete("filler")
            await world.settled()
            assert serving(world, "hello") == {"cur-1"}
            await world.undrain("lhr-1")
            await world.settled()
            assert serving(world, "hello") == {"cur-1", "lhr-1"}
        assert tally.failed == []

    play(story, TWO, memory_mib=26)


def test_a_city_is_not_left_before_the_next_one_serves() -> None:
    """Where an instance takes long to start, the drained city goes on until it has."""

    async def story(world: World) -> None:
        await fill(world, "cur", "filler")
        await world.deploy("hello")
        await world.settled()
        world.faults.start_ms_default = 45_000
        async with world.load("hello") as tally:
            await world.drain("lhr")
            await world.delete("filler")
            await world.clock.sleep_ms(40_000)
            assert serving(world, "hello") == {"lhr-1"}
            await world.clock.sleep_ms(20_000)
            assert serving(world, "hello") == {"cur-1"}
        assert tally.failed == []

    play(story, TWO, memory_mib=26)


@pytest.mark.parametrize("dead_ms", [500, 1_500, 2_500, 3_500, 4_500])
def test_no_city_is_left_for_one_that_has_just_died(dead_ms: int) -> None:
    """It used to end what served, on the last word of a city that had died since."""

    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.settled()
        async with world.load("hello", sites=("sin",)) as tally:
            world.lose_site("cur")
            await world.clock.sleep_ms(dead_ms)
            await world.drain("lhr-1")
            await world.clock.sleep_ms(20_000)
            assert serving(world, "hello") == {"lhr-1"}
        assert tally.failed == []
        world.return_site("cur")
        await world.settled()
        await world.undrain("lhr-1")

    play(story, {"lhr": 1, "cur": 1, "sin": 0}, memory_mib=26)


def test_a_version_that_is_deployed_while_every_node_is_drained_waits_and_the_old_one_serves() -> None:
    async def story(world: World) -> None:
        old = await world.deploy("hello")
        await world.settled()
        async with world.load("hello") as tally:
            for node in world.nodes:
                await world.drain(node)
            await world.settled()
            new = await world.deploy("hello", BAD)
            await world.settled()
            assert tally.versions == {old.id}
            assert {version.id for version in world.running("hello")} == {old.id}
            assert (await world.view("hello")).rollout.state == "blocked"
            await world.undrain("cur-1")
            await world.settled()
            assert serving(world, "hello") == {"cur-1"}
            assert {version.id for version in world.running("hello")} == {new.id}
        assert tally.failed == []
        await world.undrain("lhr-1")

    play(story, TWO, memory_mib=26)


def test_room_that_was_taken_for_a_moment_only_is_given_to_who_waits_for_it() -> None:
    """Whoever looks before and after sees the same room, and did not see that somebody was refused in between."""

    async def story(world: World) -> None:
        await fill(world, "cur", "filler")
        for app in ("first", "second"):
            await world.deploy(app)
        await world.settled()
        assert serving(world, "second") == {"lhr-1"}
        await world.scale("filler", min_per_site=1)
        while "cur" not in {entry.site for entry in _placements(world, "first")}:
            await world.clock.sleep_ms(1)
        assert "cur" not in {entry.site for entry in _placements(world, "second")}
        await world.delete("first")
        await world.settled()
        assert serving(world, "second") == {"lhr-1", "cur-1"}

    play(story, TWO, memory_mib=26)


def _placements(world: World, app: str) -> tuple[Placement, ...]:
    plan = world.plan_of(app)
    return plan.placements if plan else ()
