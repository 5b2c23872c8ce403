"""Something is done on every node, and nobody notices."""

import pytest

from skerry.core.types.maintenance import OUT_OF_SERVICE, Maintenance
from skerry.ports.nodetasks import TaskEnd
from skerry.ports.operations import Conflict, Invalid, NotFound
from skerry.testing.world import World
from tests.sim.stories import CITIES, play


async def until(world: World, *states: str, limit_ms: int = 600_000, every_ms: int = 50) -> Maintenance:
    """Its record when it has come to one of the states; every moment until then it keeps to its limits."""
    deadline_ms = world.clock.monotonic_ms() + limit_ms
    while True:
        job = world.maintenance()
        assert job is not None
        out = [work for work in job.nodes if work.phase in OUT_OF_SERVICE]
        assert len(out) <= 1, "one of eight nodes is the most at 10 %"
        if job.state in states:
            return job
        assert world.clock.monotonic_ms() < deadline_ms, f"still {job.state}: {job.detail}, {job.nodes}"
        await world.clock.sleep_ms(every_ms)


def lives(world: World) -> dict[str, int]:
    return {name: node.boots for name, node in world.nodes.items()}


def test_every_node_is_rebooted_once_and_no_request_fails() -> None:
    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.scale("hello", min_per_site=2)
        await world.deploy("other")
        await world.settled()
        before = lives(world)
        async with world.load("hello") as tally, world.load("other") as other:
            await world.maintain()
            job = await until(world, "done")
        assert tally.failed == other.failed == []
        assert lives(world) == {name: count + 1 for name, count in before.items()}
        assert {work.phase for work in job.nodes} == {"done"}
        assert job.canary == job.nodes[0].site == "cur", "of cities that run as much, the first by name goes first"

    play(story)


@pytest.mark.parametrize("every_ms", [370, 1_900, 4_100])
def test_control_is_killed_again_and_again_and_each_node_is_rebooted_once(every_ms: int) -> None:
    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.settled()
        before = lives(world)

        async def murder() -> None:
            for _ in range(60_000 // every_ms):
                await world.clock.sleep_ms(every_ms)
                world.control.kill()
                await world.clock.sleep_ms(130)
                world.control.start()

        async with world.load("hello") as tally:
            await world.maintain()
            world.spawn(murder())
            await until(world, "done")
        assert tally.failed == []
        assert lives(world) == {name: count + 1 for name, count in before.items()}

    play(story)


def test_a_task_that_fails_stops_it_and_a_resume_tries_again() -> None:
    async def story(world: World) -> None:
        for node in world.nodes.values():
            node.task_ends["kernel"] = TaskEnd(done=node.id != "cur-2", detail="no space left on device")
        await world.deploy("hello")
        await world.settled()
        await world.maintain("kernel")
        job = await until(world, "stopped")
        assert "cur-2: kernel failed: no space left on device" in job.detail
        assert [work.node for work in job.nodes if work.phase == "failed"] == ["cur-2"]
        said = await world.explain("hello", "cur")
        assert any("in maintenance: kernel failed" in reason for node in said.nodes for reason in node.reasons)
        with pytest.raises(Conflict):
            await world.maintain("kernel")
        world.nodes["cur-2"].task_ends["kernel"] = TaskEnd(done=True)
        await world.change_maintenance("resume")
        job = await until(world, "done")
        assert {work.phase for work in job.nodes} == {"done"}

    play(story)


def test_a_node_that_does_not_come_back_stops_it_and_an_abort_gives_the_others_back() -> None:
    async def story(world: World) -> None:
        world.nodes["cur-2"].reboot_ms = None
        await world.deploy("hello")
        await world.settled()
        async with world.load("hello") as tally:
            await world.maintain()
            job = await until(world, "stopped", limit_ms=1_500_000, every_ms=1_000)
            assert "cur-2: it did not come back within 15 min" in job.detail
            await world.change_maintenance("abort")
            job = await until(world, "aborted")
        assert tally.failed == []
        assert [work.node for work in job.nodes if work.phase == "done"] == ["cur-1"]
        world.nodes["cur-2"].start()

    play(story)


def test_while_it_is_paused_nothing_begins_and_what_is_under_way_is_finished() -> None:
    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.settled()
        await world.maintain()
        await world.clock.sleep_ms(2_000)
        await world.change_maintenance("pause")
        await world.settled()
        job = await until(world, "paused")
        assert sorted({work.phase for work in job.nodes}) == ["done", "waiting"]
        assert sum(work.phase == "done" for work in job.nodes) == 1
        await world.change_maintenance("resume")
        await until(world, "done")

    play(story)


def test_a_node_with_an_app_that_has_no_other_place_is_waited_for_with_the_reason() -> None:
    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.scale("hello", allow=["lhr"])
        await world.settled()
        async with world.load("hello") as tally:
            await world.maintain(sites=("lhr",))
            await world.clock.sleep_ms(60_000)
            job = world.maintenance()
            assert job is not None
            assert [(work.node, work.phase) for work in job.nodes] == [("lhr-1", "draining")]
            status = await world.control.call(world.control.operations.maintenance())
            assert [node.instances for node in status.nodes] == [1]
            status = await world.control.call(world.control.operations.status(None))
            assert [n.maintenance for n in status.nodes if n.node == "lhr-1"] == ["in maintenance: emptying"]
            await world.scale("hello", allow=None)
            await until(world, "done")
        assert tally.failed == []

    play(story, {"lhr": 1, "cur": 1})


def test_what_nodes_do_not_know_or_is_nowhere_is_refused() -> None:
    async def story(world: World) -> None:
        with pytest.raises(Invalid, match="'rm' is not among what cur-1"):
            await world.maintain("rm")
        with pytest.raises(NotFound):
            await world.maintain(sites=("nrt",))
        with pytest.raises(Conflict):
            await world.change_maintenance("pause")

    play(story)


def test_a_city_that_is_lost_meanwhile_holds_it_up_and_is_left_out_by_nobody() -> None:
    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.settled()
        await world.maintain()
        await world.clock.sleep_ms(3_000)
        world.lose_site("cur")
        await world.clock.sleep_ms(60_000)
        job = world.maintenance()
        assert job is not None
        assert "out of service" in job.detail or "does not answer" in job.detail
        world.return_site("cur")
        job = await until(world, "done")
        assert {work.phase for work in job.nodes} == {"done"}

    play(story, CITIES)


def test_nodes_of_a_city_that_is_drained_as_a_whole_are_maintained_too() -> None:
    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.settled()
        await world.drain("lhr")
        await world.settled()
        await world.maintain(sites=("lhr",))
        job = await until(world, "done")
        assert {work.phase for work in job.nodes} == {"done"}
        await world.undrain("lhr")

    play(story, CITIES)
