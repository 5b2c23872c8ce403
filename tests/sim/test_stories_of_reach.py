"""Stories in which a copy of an app is in reach, and users have to be led to it."""

from skerry.testing.world import World
from tests.sim.stories import play, ways


def test_what_an_ingress_could_not_take_is_told_to_it_again() -> None:
    """Its files have the table without the instance, and the instance is back before it is."""

    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.settled()
        world.crash_instance("lhr-1", "hello")
        await world.settled()
        world.sites["lhr"].crash_ingress()
        world.crash_instance("lhr-1", "hello")  # again: it is not started at once
        await world.settled()
        assert {site: served[1] for site, served in (await ways(world)).items()} == {"lhr": "lhr", "cur": "cur"}

    play(story, {"lhr": 1, "cur": 1})


def test_a_city_that_only_control_does_not_hear_serves_its_neighbours_when_they_have_nothing_left() -> None:
    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.settled()
        world.sites["cur"].wire.cut = True
        await world.clock.sleep_ms(40_000)
        plan = world.plan_of("hello")
        assert plan is not None
        assert {entry.site for entry in plan.placements} == {"lhr"}, "it was given up"
        world.nodes["lhr-1"].power_off()
        await world.clock.sleep_ms(10)
        assert {site: served[:2] for site, served in (await ways(world)).items()} == {"lhr": (200, "cur"), "cur": (200, "cur")}
        await world.scale("hello", allow=["lhr"])
        await world.clock.sleep_ms(5_000)
        assert (await world.request("lhr", "hello")).status == 503, "no request is led to where the app may not be"
        world.nodes["lhr-1"].start()
        world.sites["cur"].wire.cut = False

    play(story, {"lhr": 1, "cur": 1})
