"""Stories from the life of a platform, each through the real services of every plane, in virtual time."""

import pytest
from msgspec.structs import replace

from skerry.core.types.app import Share
from skerry.core.types.ids import AppName
from skerry.kit import record
from skerry.services.control import keys
from skerry.testing.world import World, run_world
from tests.sim.stories import CITIES, play, ways


def test_a_first_deploy_is_live_in_all_cities_within_two_seconds() -> None:
    async def story(world: World) -> None:
        version = await world.deploy("hello")
        await world.clock.sleep_ms(2_000)
        assert await ways(world) == {site: (200, site, version.id) for site in CITIES}
        view = await world.view("hello")
        assert (view.rollout.state, view.serving, view.sites) == ("done", 3, ("cur", "lhr", "sin"))

    play(story)


def test_a_second_version_replaces_the_first_and_nobody_notices() -> None:
    async def story(world: World) -> None:
        first = await world.deploy("hello")
        await world.settled()
        async with world.load("hello") as tally:
            await world.clock.sleep_ms(500)
            second = await world.deploy("hello")
            await world.settled()
        assert tally.failed == []
        assert tally.versions == {first.id, second.id}
        assert await ways(world) == {site: (200, site, second.id) for site in CITIES}
        assert all(asked == answered for asked, answered, _ in tally.answered), "no city sent its users away"

    play(story)


def test_traffic_is_split_by_shares() -> None:
    async def story(world: World) -> None:
        first = await world.deploy("hello")
        await world.settled()
        second = await world.deploy("hello")
        await world.settled()
        await world.split("hello", Share(version=first.id, percent=75), Share(version=second.id, percent=25))
        await world.settled()
        async with world.load("hello", sites=("lhr",)) as tally:
            await world.clock.sleep_ms(10_000)
        assert tally.failed == []
        counts = {version: tally.answered[("lhr", "lhr", version)] for version in (first.id, second.id)}
        assert counts[first.id] == pytest.approx(3 * counts[second.id], rel=0.1)

    play(story)


def test_a_city_without_a_copy_is_served_by_its_nearest_neighbour() -> None:
    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.settled()
        async with world.load("hello") as tally:
            for node in [node for node in world.nodes.values() if node.site == "lhr"]:
                node.power_off()
            await world.clock.sleep_ms(20_000)
            assert (await world.request("lhr", "hello")).site == "cur"
            for node in [node for node in world.nodes.values() if node.site == "lhr"]:
                node.start()
            await world.settled()
        assert tally.failed == []

    play(story)


def test_a_node_is_drained_and_undrained_make_before_break() -> None:
    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.settled()
        node = next(node for node in world.nodes.values() if node.site == "lhr" and node.machine.cells)
        async with world.load("hello") as tally:
            await world.drain(node.id)
            await world.settled()
            assert node.machine.cells == {}
            assert (await world.request("lhr", "hello")).site == "lhr"
            await world.undrain(node.id)
            await world.settled()
        assert tally.failed == []
        assert {asked for asked, answered, _ in tally.answered if asked != answered} == set(), "lhr never was without a copy"

    play(story)


def test_a_site_is_drained_and_undrained_and_its_users_are_served() -> None:
    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.settled()
        async with world.load("hello") as tally:
            await world.drain("lhr")
            await world.settled()
            assert world.running("hello", "lhr") == []
            assert (await world.request("lhr", "hello")).site == "cur"
            explanation = await world.explain("hello", "lhr")
            assert "drain" in " ".join(explanation.verdicts[0].reasons)
            await world.undrain("lhr")
            await world.settled()
            assert (await world.request("lhr", "hello")).site == "lhr"
        assert tally.failed == []

    play(story)


def test_a_deleted_app_leaves_nothing() -> None:
    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.deploy("other")
        await world.settled()
        await world.delete("hello")
        await world.settled()
        assert world.running("hello") == []
        assert not [key for key in world.engine.keys if "/hello" in key]
        assert (await ways(world))["lhr"][0] == 404
        assert (await ways(world, "other"))["lhr"][0] == 200

    play(story)


def test_an_app_that_is_deleted_and_made_again_at_once_is_a_new_app() -> None:
    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.deploy("other")
        await world.settled()
        async with world.load("other") as tally:
            await world.delete("hello")
            new = await world.deploy("hello")
            await world.settled()
        assert tally.failed == []
        assert await ways(world) == {site: (200, site, new.id) for site in CITIES}

    play(story)


def test_an_app_is_made_again_while_control_cannot_decide() -> None:
    """A lost city keeps a new control waiting; what is deployed meanwhile must not spoil everybody's slices."""

    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.deploy("other")
        await world.settled()
        world.lose_site("sin")
        world.control.kill()
        world.control.start()
        await world.clock.sleep_ms(3_000)
        await world.delete("hello")
        new = await world.deploy("hello")
        await world.clock.sleep_ms(25_000)
        assert await ways(world) == {site: (200, site, new.id) for site in ("lhr", "cur")}
        world.return_site("sin")
        await world.settled()

    play(story)


def test_a_disabled_app_stops_and_an_enabled_one_runs_again() -> None:
    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.settled()
        await world.enable("hello", enabled=False)
        await world.settled()
        assert world.running("hello") == []
        assert (await ways(world))["lhr"][0] == 404
        await world.enable("hello", enabled=True)
        await world.settled()
        assert [status for status, _, _ in (await ways(world)).values()] == [200, 200, 200]

    play(story)


def test_an_app_without_room_is_blocked_with_reasons_until_there_is_room() -> None:
    async def story(world: World) -> None:
        for number in range(3):
            await world.deploy(f"app-{number}")
            await world.settled()
        plan = world.plan_of("app-2")
        assert plan is not None
        assert [(r.place, r.reason) for r in plan.rejections] == [("lhr", "no_capacity"), ("sin", "no_capacity")]
        view = await world.view("app-2")
        assert view.rollout.state == "blocked"
        assert "12 MiB memory" in view.rollout.detail
        assert "not enough free capacity" in " ".join((await world.explain("app-2", "lhr")).verdicts[0].reasons)
        assert await world.request("lhr", "app-2"), "the only city with room serves it"
        await world.delete("app-0")
        await world.settled()
        assert {version.app for version in world.running("app-2", "lhr")} == {"app-2"}
        assert (await world.view("app-2")).rollout.state == "done"

    play(story, {"lhr": 1, "cur": 2, "sin": 1}, memory_mib=30)


def test_a_node_that_comes_brings_room() -> None:
    async def story(world: World) -> None:
        world.nodes["lhr-2"].power_off()
        await world.clock.sleep_ms(20_000)
        for number in range(3):
            await world.deploy(f"app-{number}")
        await world.settled()
        assert sum(bool(world.running(f"app-{number}", "lhr")) for number in range(3)) == 2
        world.nodes["lhr-2"].start()
        await world.clock.sleep_ms(60_000)  # it is filled step by step
        await world.settled()
        assert sum(bool(world.running(f"app-{number}", "lhr")) for number in range(3)) == 3

    play(story, {"lhr": 2, "cur": 2}, memory_mib=30)


def test_a_node_is_drained_where_not_all_have_room_and_only_one_app_leaves() -> None:
    """Capacity that shrinks below what is held costs what does not fit, and no more."""

    async def story(world: World) -> None:
        for number in range(4):
            await world.deploy(f"app-{number}")
        await world.settled()
        generations = [plan.generation for number in range(4) if (plan := world.plan_of(f"app-{number}"))]
        await world.drain("lhr-1")
        await world.settled()
        after = [plan.generation for number in range(4) if (plan := world.plan_of(f"app-{number}"))]
        assert sorted(b - a for a, b in zip(generations, after, strict=True)) == [0, 0, 1, 1]
        assert len(world.running_in("lhr")) == 2
        await world.undrain("lhr-1")
        await world.settled()
        assert len(world.running_in("lhr")) == 4

    play(story, {"lhr": 2, "cur": 3}, memory_mib=30)


def test_an_app_that_is_made_again_where_it_finds_no_place_spoils_nobodys_slice() -> None:
    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.deploy("other")
        await world.settled()
        for site in CITIES:
            await world.drain(site)
        await world.delete("hello")
        new = await world.deploy("hello")
        await world.settled()
        for site in CITIES:
            await world.undrain(site)
        await world.settled()
        assert await ways(world) == {site: (200, site, new.id) for site in CITIES}

    play(story)


def test_explain_names_what_an_isolation_class_needs_of_a_node() -> None:
    async def story() -> None:
        async with World({"lhr": 1, "cur": 1}, programs=frozenset({"p"})) as world:
            await world.settled()
            version = await world.deploy("p")
            await world.settled()
            at = keys.version(world.account.id, AppName("p"), version.id)
            await world.control.store.put(at, record.encode(replace(version, isolation="gvisor")))
            await world.clock.sleep_ms(1_000)
            (node,) = (await world.explain("p", "cur")).nodes
            assert "needs amd64, gvisor; lacks gvisor" in " ".join(node.reasons)

    run_world(story())
