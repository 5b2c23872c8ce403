"""Control is killed around every write of a deployment: then it is as if it had never been asked, or it is done."""

from typing import Literal

import pytest

from skerry.testing.world import ControlGone, World, run_world

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
