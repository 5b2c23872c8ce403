"""Stories of what dies, breaks and comes back, through the real services of every plane, in virtual time."""

import pytest

from skerry.core.types.slices import SERVING_STATES
from skerry.testing.world import World
from tests.sim.stories import BAD, CITIES, play, ways


@pytest.mark.parametrize("own_fault", [False, True], ids=["crashes", "throws"])
def test_a_version_that_does_not_start_is_rolled_back_and_says_why(own_fault: bool) -> None:
    async def story(world: World) -> None:
        world.breaks(BAD, "Uncaught Error: no such table", own_fault=own_fault)
        good = await world.deploy("hello")
        await world.settled()
        async with world.load("hello") as tally:
            bad = await world.deploy("hello", BAD)
            await world.settled()
        assert tally.failed == []
        assert tally.versions == {good.id}
        assert {version.id for version in world.running("hello")} == {good.id}
        view = await world.view("hello")
        assert (view.version, view.rollout.state) == (good.id, "rolled_back")
        assert "no such table" in view.rollout.detail
        assert any("no such table" in line for line in (await world.explain("hello")).report)
        assert bad.number == 2
        third = await world.deploy("hello")
        await world.converged()  # its canary waits for users who asked until a moment ago
        assert {version.id for version in world.running("hello")} == {third.id}
        assert (await world.view("hello")).rollout.state == "done"

    play(story)


def test_a_first_version_that_does_not_start_says_why_and_the_next_one_replaces_it() -> None:
    async def story(world: World) -> None:
        world.breaks(BAD, "Uncaught Error: no such table")
        await world.deploy("hello", BAD)
        await world.clock.sleep_ms(60_000)
        rollout = (await world.view("hello")).rollout
        assert rollout.state == "rolled_back"
        assert "no such table" in rollout.detail
        good = await world.deploy("hello")
        await world.clock.sleep_ms(5_000)
        assert await ways(world) == {site: (200, site, good.id) for site in CITIES}

    play(story)


def test_an_instance_that_crashes_is_back_and_its_users_waited() -> None:
    async def story(world: World) -> None:
        version = await world.deploy("hello")
        await world.settled()
        async with world.load("hello") as tally:
            for node in world.nodes:
                world.crash_instance(node, "hello")
            await world.settled()
        assert tally.failed == []
        assert await ways(world) == {site: (200, site, version.id) for site in CITIES}

    play(story)


def test_an_agent_is_killed_and_its_instances_go_on() -> None:
    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.settled()
        pids = {name: cell.pid for node in world.nodes.values() for name, cell in node.machine.cells.items()}
        async with world.load("hello") as tally:
            for node in world.nodes.values():
                node.kill()
            await world.clock.sleep_ms(10_000)
            for node in world.nodes.values():
                node.start()
            await world.settled()
        assert tally.failed == []
        assert {name: cell.pid for node in world.nodes.values() for name, cell in node.machine.cells.items()} == pids

    play(story)


def test_a_node_is_powered_off_and_back() -> None:
    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.settled()
        node = next(node for node in world.nodes.values() if node.site == "lhr" and node.machine.cells)
        async with world.load("hello") as tally:
            node.power_off()
            await world.clock.sleep_ms(10_000)
            assert [n.id for n in world.nodes.values() if n.site == "lhr" and n.machine.cells] != [], "lhr has a copy again"
            assert (await world.request("lhr", "hello")).site == "lhr"
            node.start()
            await world.settled()
        assert tally.failed == []

    play(story)


def test_a_node_that_died_while_its_controller_was_down_is_given_up() -> None:
    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.settled()
        node = next(node for node in world.nodes.values() if node.site == "lhr" and node.machine.cells)
        world.sites["lhr"].kill()
        node.power_off()
        world.sites["lhr"].start()
        await world.clock.sleep_ms(20_000)
        assert (await world.request("lhr", "hello")).site == "lhr"
        node.start()

    play(story)


def test_a_city_is_lost_and_back_and_the_others_notice_nothing() -> None:
    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.settled()
        async with world.load("hello", sites=("cur", "sin")) as tally:
            world.lose_site("lhr")
            with pytest.raises(ConnectionRefusedError):
                await world.request("lhr", "hello")
            await world.clock.sleep_ms(30_000)
            plan = world.plan_of("hello")
            assert plan is not None
            assert {placement.site for placement in plan.placements} == {"cur", "sin"}
            assert [(r.place, r.reason) for r in plan.rejections] == [("lhr", "site_down")]
            world.return_site("lhr")
            await world.settled()
        assert tally.failed == []
        assert (await world.request("lhr", "hello")).site == "lhr"

    play(story)


def test_control_is_killed_for_half_a_minute_and_nobody_notices() -> None:
    async def story(world: World) -> None:
        first = await world.deploy("hello")
        await world.settled()
        before = world.running("hello")
        async with world.load("hello") as tally:
            world.control.kill()
            await world.clock.sleep_ms(15_000)
            world.crash_instance(next(n.id for n in world.nodes.values() if n.machine.cells), "hello")
            await world.clock.sleep_ms(15_000)
            world.control.start()
            await world.settled()
            assert world.running("hello") == before, "a restart of control moves nothing"
            await world.deploy("hello")
            await world.converged()  # its canary waits until enough users were counted
        assert tally.failed == []
        assert first.id not in {version.id for version in world.running("hello")}

    play(story)


def test_a_canary_is_not_waved_through_by_a_control_that_has_just_started() -> None:
    """A control that knows nothing yet takes silence for silence, not for health."""

    async def story(world: World) -> None:
        world.breaks(BAD, "boom")
        good = await world.deploy("hello")
        await world.settled()
        await world.deploy("hello", BAD)
        await world.clock.sleep_ms(100)
        world.control.kill()
        await world.clock.sleep_ms(100)
        world.control.start()
        await world.clock.sleep_ms(400)
        running = {site: {version.id for version in world.running("hello", site)} for site in CITIES}
        assert sum(len(versions) > 1 for versions in running.values()) <= 1, "the bad version is in one city at most"
        await world.settled()
        assert {version.id for version in world.running("hello")} == {good.id}

    play(story)


def test_a_site_that_is_cut_off_during_a_deploy_goes_on_and_then_catches_up() -> None:
    async def story(world: World) -> None:
        first = await world.deploy("hello")
        await world.settled()
        async with world.load("hello") as tally:
            world.sites["sin"].wire.cut = True
            await world.clock.sleep_ms(2_000)
            second = await world.deploy("hello")
            await world.clock.sleep_ms(40_000)
            found = await ways(world)
            assert found == {"lhr": (200, "lhr", second.id), "cur": (200, "cur", second.id), "sin": (200, "sin", first.id)}
            world.sites["sin"].wire.cut = False
            await world.settled()
        assert tally.failed == []
        assert await ways(world) == {site: (200, site, second.id) for site in CITIES}

    play(story)


def test_control_dies_in_the_midst_of_a_delete_and_nothing_is_left() -> None:
    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.settled()

        def die(side: str, number: int) -> bool:
            if side == "after":
                world.control.kill()
            return side == "after"

        world.control.store.on_write = die
        with pytest.raises(Exception, match="broke"):
            await world.delete("hello")
        world.control.start()
        await world.settled()
        assert not [key for key in world.engine.keys if "/hello" in key]

    play(story)


def test_everything_is_killed_at_once_and_comes_back() -> None:
    async def story(world: World) -> None:
        version = await world.deploy("hello")
        await world.settled()
        world.control.kill()
        for site in world.sites:
            world.lose_site(site)
        await world.clock.sleep_ms(60_000)
        world.control.start()
        for site in world.sites:
            world.return_site(site)
        await world.settled()
        assert await ways(world) == {site: (200, site, version.id) for site in CITIES}
        states = {cell.life.state for node in world.nodes.values() for cell in node.machine.cells.values()}
        assert states <= SERVING_STATES

    play(story)


def test_a_controller_that_lost_its_disk_moves_nothing() -> None:
    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.settled()
        pids = {name: cell.pid for node in world.nodes.values() for name, cell in node.machine.cells.items()}
        async with world.load("hello") as tally:
            site = world.sites["lhr"]
            site.kill()
            site.memory_file.lose()
            site.slice_file.lose()
            await world.clock.sleep_ms(2_000)
            site.start()
            await world.settled()
        assert tally.failed == []
        assert {name: cell.pid for node in world.nodes.values() for name, cell in node.machine.cells.items()} == pids

    play(story)


def test_two_bad_versions_are_not_rolled_back_to_each_other_for_ever() -> None:
    async def story(world: World) -> None:
        worse = world.breaks(BAD + "er", "worse")
        world.breaks(BAD, "bad")
        await world.deploy("hello")
        await world.enable("hello", enabled=False)
        await world.settled()
        await world.deploy("hello", BAD)
        await world.settled()
        await world.enable("hello", enabled=True)
        await world.settled()
        await world.deploy("hello", worse)
        await world.settled()
        plan = world.plan_of("hello")
        assert plan is not None
        assert plan.generation < 10

    play(story)


def test_a_bad_version_is_not_let_through_because_its_canary_city_is_lost() -> None:
    async def story(world: World) -> None:
        world.breaks(BAD, "boom")
        await world.deploy("hello")
        await world.settled()
        good = await world.deploy("hello")
        await world.settled()
        canary = world.releases()[0].waves[0][0]
        others = tuple(site for site in CITIES if site != canary)
        async with world.load("hello", sites=others) as tally:
            world.lose_site(canary)
            await world.deploy("hello", BAD)
            await world.clock.sleep_ms(60_000)
            world.return_site(canary)
            await world.settled()
        assert tally.failed == []
        assert {version.id for version in world.running("hello")} == {good.id}
        assert (await world.view("hello")).rollout.state == "rolled_back"

    play(story)


def test_a_bad_version_is_rolled_back_although_the_platform_moves_meanwhile() -> None:
    """A plan that is made while a release is under way does not take over what is not proven yet as proven."""

    async def story(world: World) -> None:
        world.breaks(BAD, "boom")
        good = await world.deploy("hello")
        await world.settled()
        async with world.load("hello") as tally:
            await world.deploy("hello", BAD)
            await world.clock.sleep_ms(250)
            await world.drain("lhr")
            await world.clock.sleep_ms(250)
            await world.drain("cur")
            await world.settled()
            await world.undrain("lhr")
            await world.undrain("cur")
            await world.settled()
        assert tally.failed == []
        assert {version.id for version in world.running("hello")} == {good.id}

    play(story)


def test_many_releases_at_once_do_not_overwrite_each_other() -> None:
    async def story(world: World) -> None:
        apps = [f"app-{number}" for number in range(8)]
        for round_ms in (0, 3, 7, 11, 40, 90, 200, 400):
            for app in apps:
                await world.deploy(app)
            await world.clock.sleep_ms(round_ms)
        await world.settled()
        for app in apps:
            assert {version.number for version in world.running(app)} == {8}

    play(story)


def test_a_control_that_starts_while_a_city_is_dead_decides_at_once() -> None:
    """It used to wait for a quarter of a minute, for a city that had been given up before."""

    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.settled()
        world.lose_site("lhr")
        await world.clock.sleep_ms(20_000)
        world.control.kill()
        await world.clock.sleep_ms(500)
        world.control.start()
        second = await world.deploy("hello", "export default { fetch() {} } // 2")
        await world.clock.sleep_ms(4_000)
        assert {found[2] for found in (await ways(world)).values()} == {second.id}
        world.return_site("lhr")

    play(story)


def test_a_city_that_dies_while_control_is_down_is_given_up_soon() -> None:
    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.settled()
        world.control.kill()
        world.lose_site("lhr")
        await world.clock.sleep_ms(500)
        world.control.start()
        await world.clock.sleep_ms(7_000)
        plan = world.plan_of("hello")
        assert plan is not None
        assert {placement.site for placement in plan.placements} == {"cur", "sin"}
        world.return_site("lhr")

    play(story)


@pytest.mark.parametrize(("dead", "lost_ms"), [(True, 6_500), (False, 11_500)], ids=["dead", "not heard by control"])
def test_a_city_that_no_other_reaches_is_given_up_sooner(dead: bool, lost_ms: int) -> None:
    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.settled()
        if dead:
            world.lose_site("lhr")
        else:
            world.sites["lhr"].wire.cut = True
        await world.clock.sleep_ms(lost_ms - 2_000)
        assert "lhr" in _placed(world)
        await world.clock.sleep_ms(2_000)
        assert "lhr" not in _placed(world)
        said = "; ".join((await world.explain("hello", "lhr")).verdicts[0].reasons)
        assert ("no city that looks at it reaches it" in said) is dead
        world.sites["lhr"].wire.cut = False
        if dead:
            world.return_site("lhr")

    play(story)


def _placed(world: World) -> set[str]:
    plan = world.plan_of("hello")
    return {placement.site for placement in plan.placements} if plan else set()


def test_where_control_itself_is_cut_off_it_gives_nobody_up_for_a_while_and_says_what_it_suspects() -> None:
    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.settled()
        before = world.plan_of("hello")
        for site in world.sites.values():
            site.wire.cut = True
        await world.clock.sleep_ms(18_000)
        status = await world.control.call(world.control.operations.status(None))
        assert [(site.state, site.suspected, site.phi > 8) for site in status.sites] == [("up", True, True)] * 3
        said = await world.explain("hello", "lhr")
        assert any("were it not that most are silent together" in reason for reason in said.verdicts[0].reasons)
        for site in world.sites.values():
            site.wire.cut = False
        await world.settled()
        assert world.plan_of("hello") == before, "nothing was moved"

    play(story)


def test_a_node_that_is_silent_is_suspected_before_it_is_lost() -> None:
    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.settled()
        world.nodes["lhr-1"].power_off()
        await world.clock.sleep_ms(3_200)
        status = await world.control.call(world.control.operations.status(None))
        assert [node.node for node in status.nodes if node.suspected] == ["lhr-1"]
        await world.clock.sleep_ms(3_000)
        status = await world.control.call(world.control.operations.status(None))
        assert [(node.node, node.suspected) for node in status.nodes if node.state == "down"] == [("lhr-1", False)]
        said = await world.explain("hello", "lhr")
        assert "its city has not heard it" in "; ".join(said.nodes[0].reasons)
        world.nodes["lhr-1"].start()

    play(story)


def test_a_city_that_comes_back_is_filled_step_by_step() -> None:
    """Thirty apps come back in steps, not in one moment; what runs elsewhere serves its users meanwhile."""

    async def story(world: World) -> None:
        apps = [f"app-{number:02}" for number in range(30)]
        for app in apps:
            await world.deploy(app)
        await world.settled()
        assert len(world.running_in("lhr")) == 30
        world.lose_site("lhr")
        await world.clock.sleep_ms(30_000)
        async with world.load("app-07", sites=("cur", "sin")) as tally:
            world.return_site("lhr")
            planned: list[int] = []
            for _ in range(14):
                await world.clock.sleep_ms(5_000)
                plans = [plan for app in apps if (plan := world.plan_of(app)) is not None]
                planned.append(sum(any(entry.site == "lhr" for entry in plan.placements) for plan in plans))
        assert tally.failed == []
        assert planned == sorted(planned)
        assert planned[-1] == 30
        steps = [after - before for before, after in zip([0, *planned], planned, strict=False)]
        assert max(steps) <= 12, f"never many at once: {planned}"
        assert planned[0] < 12
        said = await world.explain("app-29", "lhr")
        assert said.verdicts[0].chosen

    play(story, memory_mib=160)


def test_a_request_that_failed_between_cities_that_were_apart_breaks_no_promise() -> None:
    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.scale("hello", allow=["lhr", "sin"])
        await world.settled()
        async with world.load("hello", sites=("cur",)) as tally:
            world.lose_site("sin")
            for _ in range(20):  # at many moments of a request's way
                world.network.part("cur", "lhr")
                await world.clock.sleep_ms(70)
                world.network.join("cur", "lhr")
                await world.clock.sleep_ms(33)
        assert tally.failed
        assert world.violations == []
        world.return_site("sin")
        await world.settled()

    play(story)
