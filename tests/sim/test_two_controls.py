"""Two controls on one store: what one decides the other sees, and nothing is sold twice."""

import asyncio

from skerry.core.types.plan import Reason
from skerry.testing.world import World, run_world
from skerry.testing.world.world import upload_of

CITIES = {"lhr": 1, "cur": 2}


async def deploy_by(world: World, control: int, app: str) -> None:
    chosen = world.controls[control]
    await chosen.call(chosen.apps.deploy(world.account.id, app, upload_of("export default {}"), source="test", author="test"))


def test_two_controls_decide_at_once_and_sell_nothing_twice() -> None:
    async def story() -> None:
        async with World(CITIES, memory_mib=40, trace_lines=200) as world:
            world.add_control()
            await world.settled()
            async with asyncio.TaskGroup() as group:
                for number in range(10):
                    group.create_task(deploy_by(world, number % 2, f"app-{number}"))
            await world.converged()
            assert len({version.app for version in world.running_in("lhr")}) == 3, "a node of 40 MiB holds three of 12 MiB"
            assert len({version.app for version in world.running_in("cur")}) == 6
            plans = [plan for number in range(10) if (plan := world.plan_of(f"app-{number}")) is not None]
            refused = [rejection.reason for plan in plans for rejection in plan.rejections]
            assert refused == [Reason.NO_CAPACITY] * 11

    run_world(story())


def test_two_controls_take_deployments_of_one_app_at_once() -> None:
    async def story() -> None:
        async with World(CITIES, trace_lines=200) as world:
            world.add_control()
            await world.settled()
            await deploy_by(world, 0, "hello")
            async with world.load("hello") as tally:
                await asyncio.gather(*(deploy_by(world, number % 2, "hello") for number in range(6)), return_exceptions=True)
                await world.converged()
            assert [failure for failure in tally.failed if failure.at_ms > 4_000] == []
            newest = max(world.running("hello"), key=lambda version: version.number)
            assert {version.id for version in world.running("hello")} == {newest.id}

    run_world(story())


def test_one_of_two_controls_dies_in_the_midst_of_its_decision() -> None:
    async def story() -> None:
        async with World(CITIES, trace_lines=200) as world:
            other = world.add_control()
            await world.settled()

            def dies(side: str, number: int) -> bool:
                if side == "after":
                    world.control.kill()
                return side == "after"

            world.control.store.on_write = dies
            await deploy_by(world, 1, "hello")
            await world.clock.sleep_ms(5_000)
            assert other.alive
            assert {site: len(world.running("hello", site)) for site in CITIES} == {"lhr": 1, "cur": 1}
            world.control.start()
            await world.converged()

    run_world(story())
