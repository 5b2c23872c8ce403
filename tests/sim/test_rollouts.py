"""Rollouts through many cities: what a bad version touches, what operators hold, and what a killed control forgets."""

from collections.abc import Mapping

import pytest

from skerry.core.machines import rollout
from skerry.core.types.gate import VersionFacts
from skerry.core.types.ids import AccountId, AppName, SiteId, VersionId
from skerry.core.types.slices import SERVING_STATES
from skerry.ports.operations import Conflict
from skerry.testing.world import World, run_world
from tests.sim.stories import BAD, play

MANY = {f"s{number:02d}": 1 for number in range(40)}
SOME = {f"s{number:02d}": 1 for number in range(12)}
RPS = 50


class Counters:
    """What cities would count: every version that serves gets its city's requests; `failing` ones fail a part of them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._seen: dict[tuple[SiteId, VersionId], VersionFacts] = {}
        self.failing: dict[VersionId, float] = {}
        self.slow_ms: dict[VersionId, float] = {}
        world.counts = self.of

    async def run(self) -> None:
        while True:
            await self._world.clock.sleep_ms(100)
            for node in self._world.nodes.values():
                for cell in node.machine.cells.values():
                    if cell.life.state in SERVING_STATES:
                        self._count(node.site, cell.instance.version.id)

    def _count(self, site: SiteId, version: VersionId) -> None:
        seen = self._seen.get((site, version), VersionFacts())
        requests = seen.requests + RPS // 10
        errors = int(requests * self.failing.get(version, 0.0))
        took_ms = requests * self.slow_ms.get(version, 20.0)
        self._seen[(site, version)] = VersionFacts(requests=requests, errors=errors, latency_ms_sum=took_ms)

    def of(self, site: SiteId, account: AccountId, app: AppName) -> Mapping[VersionId, VersionFacts]:
        return {version: facts for (at, version), facts in self._seen.items() if at == site}


async def begin(world: World) -> Counters:
    """The first version everywhere, with traffic."""
    counters = Counters(world)
    for control in world.controls:
        control.kill()
        control.start()  # with the counters
    await world.settled()
    await world.deploy("hello")
    await world.settled()
    world.spawn(counters.run())
    await world.clock.sleep_ms(10_000)
    return counters


def touched(world: World, version: VersionId) -> set[str]:
    return {site for site in world.sites if version in {v.id for v in world.running("hello", site)}}


async def until_wave(world: World, wave: int) -> None:
    for _ in range(2_000):
        if world.releases()[0].wave >= wave:
            return
        await world.clock.sleep_ms(50)
    raise AssertionError(f"wave {wave} never came: {world.releases()[0]}")


async def bad_version_touches_the_canary_alone(world: World) -> None:
    await _touches_the_canary_alone(world, "requests failed")


async def slow_version_touches_the_canary_alone(world: World) -> None:
    await _touches_the_canary_alone(world, "answers take 400 ms in the mean, before 20 ms")


async def _touches_the_canary_alone(world: World, said: str) -> None:
    counters = await begin(world)
    reached: set[str] = set()

    async def look() -> None:
        while True:
            await world.clock.sleep_ms(20)
            reached.update(touched(world, bad.id))

    bad = await world.deploy("hello")
    if "failed" in said:
        counters.failing[bad.id] = 0.3
    else:
        counters.slow_ms[bad.id] = 400.0
    world.spawn(look())
    await world.clock.sleep_ms(60_000)
    assert len(reached) == 1, "the canary's share of 40 cities"
    view = await world.view("hello")
    assert view.rollout.state == "rolled_back"
    assert said in view.rollout.detail
    assert touched(world, bad.id) == set()


def test_a_version_that_starts_well_and_fails_its_users_touches_one_city_of_forty() -> None:
    play(bad_version_touches_the_canary_alone, MANY)


def test_a_version_that_is_slow_touches_one_city_of_forty() -> None:
    play(slow_version_touches_the_canary_alone, MANY)


def test_a_gate_that_never_says_no_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = rollout.judge
    monkeypatch.setattr(rollout, "judge", lambda *given: rollout.replace(real(*given), verdict="good"))
    with pytest.raises(AssertionError, match="canary"):
        play(bad_version_touches_the_canary_alone, MANY)


def test_a_version_that_does_not_start_touches_one_city_of_forty() -> None:
    async def story(world: World) -> None:
        world.breaks(BAD, "boom")
        good = await world.deploy("hello")
        await world.settled()
        bad = await world.deploy("hello", BAD)
        reached: set[str] = set()
        for _ in range(100):
            await world.clock.sleep_ms(50)
            reached |= touched(world, bad.id)
        await world.settled()
        assert len(reached) <= 1
        assert {version.id for version in world.running("hello")} == {good.id}

    play(story, MANY)


def test_control_is_killed_in_the_middle_of_a_rollout_and_goes_on_where_it_was() -> None:
    async def story(world: World) -> None:
        await begin(world)
        second = await world.deploy("hello")
        await until_wave(world, 1)
        before = world.releases()[0]
        world.control.kill()
        await world.clock.sleep_ms(3_000)
        assert len(touched(world, second.id)) <= sum(len(wave) for wave in before.waves[:2])
        world.control.start()
        await world.clock.sleep_ms(300)
        after = world.releases()[0]
        assert (after.plan, after.waves, after.marks) == (before.plan, before.waves, before.marks)
        await world.clock.sleep_ms(120_000)
        assert world.releases()[0].state == "done"
        assert touched(world, second.id) == set(SOME)

    play(story, SOME)


def test_what_is_held_stays_held_over_a_restart_of_control_and_a_lost_city() -> None:
    async def story(world: World) -> None:
        await begin(world)
        second = await world.deploy("hello")
        await until_wave(world, 1)
        await world.change_rollout("hello", "pause")
        await world.clock.sleep_ms(2_000)
        held = touched(world, second.id)
        assert 1 <= len(held) < 12
        canary = world.releases()[0].waves[0][0]
        world.control.kill()
        await world.clock.sleep_ms(1_000)
        world.control.start()
        world.lose_site(canary)
        await world.clock.sleep_ms(60_000)
        assert touched(world, second.id) == held - {canary}
        assert (await world.view("hello")).rollout.state == "paused"
        world.return_site(canary)
        await world.clock.sleep_ms(10_000)
        await world.change_rollout("hello", "resume")
        await world.clock.sleep_ms(120_000)
        assert touched(world, second.id) == set(SOME)

    play(story, SOME)


def test_an_operator_goes_back_and_nothing_of_the_new_version_is_left() -> None:
    async def story(world: World) -> None:
        await begin(world)
        second = await world.deploy("hello")
        await until_wave(world, 1)
        await world.change_rollout("hello", "abort")
        await world.settled()
        assert touched(world, second.id) == set()
        view = await world.view("hello")
        assert (view.rollout.state, "aborted by an operator" in view.rollout.detail) == ("rolled_back", True)
        with pytest.raises(Conflict, match="no rollout"):
            await world.change_rollout("hello", "pause")

    play(story, SOME)


def test_a_pause_that_is_not_kept_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bug: a step that looks at everything but the pause."""
    real = rollout.step

    def deaf(release: rollout.Release, *given: object, **named: object) -> rollout.Release:
        after = real(rollout.replace(release, paused=False), *given, **named)  # type: ignore[arg-type]
        return rollout.replace(after, paused=release.paused)

    from skerry.services.control import rollouts

    async def everything(self: rollouts.Rollouts) -> bool:
        for key in [(r.account, r.app) for r in self._mirror.select("releases/", rollout.Release) if r.state == "running"]:
            await self._advance(key)
        return True

    monkeypatch.setattr(rollouts, "step", deaf)
    monkeypatch.setattr(rollouts.Rollouts, "step", everything)

    async def story() -> None:
        async with World(SOME) as world:
            await begin(world)
            await world.deploy("hello")
            await world.clock.sleep_ms(300)
            await world.change_rollout("hello", "pause")
            await world.clock.sleep_ms(60_000)

    with pytest.raises(AssertionError, match="its rollout is held"):
        run_world(story())
