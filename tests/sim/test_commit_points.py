"""Control is killed around every write of a deployment: then it is as if it had never been asked, or it is done."""

from typing import Literal

import pytest

from skerry.core.types.slices import SiteSlice
from skerry.testing.world import ControlGone, World, run_world
from tests.sim.stories import play

CITIES = {"lhr": 2, "cur": 1, "sin": 1}


async def die_at(side: Literal["before", "after"], number: int) -> bool:
    """Around the `number`-th write from the beginning of a deployment; False: there are not so many."""
    async with World(CITIES, trace_lines=200) as world:
        await world.settled()
        first = await world.deploy("hello")
        await world.settled()
        point = world.control.store.writes + number

        def dies(at: str, commit: int) -> bool:
            hit = at == side and commit == point
            if hit:
                world.control.kill()
            return hit

        world.control.store.on_write = dies
        async with world.load("hello") as tally:
            known = await _deploy(world)
            await world.clock.sleep_ms(3_000)
            if world.control.alive:
                return False
            world.control.start()
            await world.converged()
            running = {version.id for version in world.running("hello")}
            assert len(running) == 1, "never a mixture"
            assert known is None or running == {known}, "what was acknowledged is there"
            assert tally.versions <= {first.id, *running}
            again = await world.deploy("hello")
            await world.converged()
        assert tally.failed == []
        assert {version.id for version in world.running("hello")} == {again.id}
        return True


async def _deploy(world: World) -> str | None:
    """None: the answer was lost."""
    try:
        return (await world.deploy("hello")).id
    except ControlGone:
        return None


@pytest.mark.parametrize("side", ["before", "after"])
def test_control_is_killed_around_every_write_of_a_deployment(side: Literal["before", "after"]) -> None:
    number = 0
    while run_world(die_at(side, number + 1)):
        number += 1
    assert number >= 6, "intent, plan, and a release in waves"


def test_control_that_is_killed_when_cities_have_their_slices_but_no_files_yet_takes_nothing_back() -> None:
    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.settled()
        for city in world.sites.values():
            city.wire.latency_ms = 40
        with_it: list[str] = []
        new = await world.deploy("hello", "export default { fetch() {} } // of which no city has the files")
        while not with_it:
            await world.clock.sleep_ms(1)
            with_it = [name for name, city in world.sites.items() if _brings(city.slice_file.load(), new.id)]
        world.control.kill()
        await world.clock.sleep_ms(5_000)
        assert not any(new.process_digests() & city.copies.keys() for city in world.sites.values()), "this shows nothing"
        world.control.start()
        await world.converged()
        assert {version.id for version in world.running("hello")} == {new.id}

    play(story)


def test_time_in_which_no_control_looks_is_not_held_against_a_version() -> None:
    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.settled()
        new = await world.deploy("hello")
        while not any(release.state == "running" for release in world.releases()):
            await world.clock.sleep_ms(1)
        world.control.kill()
        await world.clock.sleep_ms(120_000)
        world.control.start()
        await world.converged()
        assert {version.id for version in world.running("hello")} == {new.id}

    play(story)


def _brings(slice_: SiteSlice | None, version: str) -> bool:
    return slice_ is not None and any(entry.version.id == version for app in slice_.apps for entry in app.versions)
