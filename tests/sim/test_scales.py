"""What an app asks for, changed while users come: through the real services of every plane, in virtual time."""

import pytest

from skerry.services.intents.errors import IntentError
from skerry.testing.world import World
from tests.sim.stories import CITIES, play


def cities_of(world: World) -> set[str]:
    return {site for site in CITIES if world.running_in(site)}


def test_a_denied_city_is_left_without_a_failed_request_and_taken_again() -> None:
    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.settled()
        async with world.load("hello") as tally:
            await world.scale("hello", deny=["country:SG"])
            await world.settled()
            assert cities_of(world) == {"lhr", "cur"}
            verdicts = {verdict.site: verdict for verdict in (await world.explain("hello")).verdicts}
            assert not verdicts["sin"].chosen and "deny" in " ".join(verdicts["sin"].reasons)
            await world.scale("hello", deny=None)
            await world.settled()
            assert cities_of(world) == set(CITIES)
        assert tally.failed == []

    play(story)


def test_numbers_follow_without_a_new_version() -> None:
    async def story(world: World) -> None:
        version = await world.deploy("hello")
        await world.settled()
        async with world.load("hello") as tally:
            await world.scale("hello", max_total=1, pin=["cur"])
            await world.settled()
            assert [v.id for v in world.running_in("cur")] == [version.id]
            assert cities_of(world) == {"cur"}
            await world.scale("hello", max_total=None, pin=None, min_per_site=2)
            await world.settled()
            assert {site: len(world.running_in(site)) for site in CITIES} == {"lhr": 2, "cur": 2, "sin": 2}
        assert tally.failed == []

    play(story)


def test_what_nothing_has_room_for_is_said_and_what_runs_stays() -> None:
    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.settled()
        async with world.load("hello") as tally:
            await world.scale("hello", min_per_site=1000)
            await world.settled()
            view = await world.view("hello")
            assert view.rollout.state == "blocked" and "capacity" in view.rollout.detail
            await world.scale("hello", min_per_site=None)
            await world.settled()
            assert {site: len(world.running_in(site)) for site in CITIES} == dict.fromkeys(CITIES, 1)
        assert tally.failed == []

    play(story)


def test_a_contradiction_changes_nothing() -> None:
    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.settled()
        before = world.plan_of("hello")
        with pytest.raises(IntentError, match="max_total"):
            await world.scale("hello", min_total=5, max_total=2)
        await world.settled()
        assert world.plan_of("hello") == before

    play(story)
