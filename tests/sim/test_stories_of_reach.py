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
