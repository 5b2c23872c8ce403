"""What a change would make of the apps, looked at before it is made: it has to come as it was said."""

import pytest

from skerry.core.types.change import AppChange, Change, SiteChange
from skerry.core.types.ids import SiteId
from skerry.core.types.view import PlanDifference
from skerry.ports.operations import Invalid, NotFound
from skerry.testing.world import World
from tests.sim.stories import play


async def asked(world: World, change: Change) -> PlanDifference:
    account = world.account.id
    return await world.control.call(world.control.operations.difference(account, account, change))


def test_a_scale_comes_as_it_was_foretold_and_telling_changes_nothing() -> None:
    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.settled()
        revision = world.engine.history.newest
        found = await asked(world, Change(apps={"hello": AppChange(scale={"deny": ["country:SG"], "min_total": 4})}))
        await world.settled()
        assert world.engine.history.newest == revision
        (app,) = found.apps
        assert (app.gained, app.lost, app.instances_before, app.instances_after) == ((), ("sin",), 3, 4)
        assert (app.started, app.ended) == (2, 1)
        assert app.reserved_after.memory_mib == app.reserved_before.memory_mib * 4 // 3
        ways = {way.region: way for way in app.ways}
        assert ways["apac"].before_ms == 0.0 and (ways["apac"].after_ms or 0.0) > 50.0
        assert ways["weur"].before_ms == ways["weur"].after_ms
        assert [entry.place for entry in app.rejections] == ["sin"]
        await world.scale("hello", deny=["country:SG"], min_total=4)
        await world.settled()
        plan = world.plan_of("hello")
        assert plan and {entry.site: entry.count for entry in plan.placements} == {"cur": 2, "lhr": 2}

    play(story)


def test_a_city_that_would_be_lost_is_looked_at_for_every_app() -> None:
    async def story(world: World) -> None:
        for name in ("hello", "other"):
            await world.deploy(name)
        await world.deploy("third")
        await world.scale("third", deny=["lhr"])
        await world.settled()
        found = await asked(world, Change(sites={"lhr": SiteChange(state="down")}))
        assert [(app.app, app.lost) for app in found.apps] == [("hello", ("lhr",)), ("other", ("lhr",))]
        assert found.looked_at == 3
        assert (await asked(world, Change(sites={"lhr": SiteChange(state="up")}))).apps == ()

    play(story)


def test_no_word_of_an_operator_brings_a_lost_city_back() -> None:
    """It was drained, and then it was lost: to end the drain alone changes nothing, and the answer says why."""

    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.settled()
        await world.drain("lhr")
        await world.settled()
        back = Change(sites={"lhr": SiteChange(state="up")})
        (app,) = (await asked(world, back)).apps
        assert app.gained == ("lhr",)
        world.lose_site("lhr")
        await world.clock.sleep_ms(45_000)
        found = await asked(world, back)
        assert found.apps == ()
        assert [remark for remark in found.remarks if remark.startswith("lhr is lost")]
        assert (await asked(world, Change(sites={"lhr": SiteChange(state="down")}))).remarks == ()
        assert "lhr" not in {entry.site for entry in (await world.explain("hello")).placements}

    play(story)


def test_apps_that_move_together_do_not_get_the_same_room_twice() -> None:
    async def story(world: World) -> None:
        for name in ("a", "b"):
            await world.deploy(name)
            await world.scale(name, pin=["lhr"], max_total=1)
        await world.settled()
        reserve = {"max_total": None, "min_per_site": 50, "allow": ["sin"], "pin": None}
        found = await asked(world, Change(apps={name: AppChange(scale=reserve) for name in ("a", "b")}))
        placed = {app.app: app.instances_after for app in found.apps}
        capacity = sum(node.capacity.memory_mib for node in world.control.observed.nodes(SiteId("sin"))) // 12
        assert placed["a"] == 50
        assert placed["a"] + placed["b"] <= capacity < 100

    play(story, {"lhr": 1, "sin": 1})


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (Change(apps={"nobody": AppChange(scale={})}), NotFound, "nobody"),
        (Change(sites={"nrt": SiteChange(state="down")}), NotFound, "nrt"),
        (Change(apps={"hello": AppChange(scale={"max": 1})}), Invalid, "'max'"),
        (Change(apps={"hello": AppChange(scale={"max_total": 1, "min_total": 2})}), Invalid, "max_total"),
    ],
)
def test_what_is_not_there_or_makes_no_sense_is_refused(change: Change, error: type[Exception], words: str) -> None:
    async def story(world: World) -> None:
        await world.deploy("hello")
        with pytest.raises(error, match=words):
            await asked(world, change)

    play(story)
