"""Bugs that somebody might write, planted: the checks from outside have to find each of them."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from msgspec.structs import replace

from skerry.apps.sim import fuzzing
from skerry.core.reconcile import site as reconcile_site
from skerry.core.reconcile.site_types import SiteDecision, SiteInput
from skerry.core.types.ids import AppName, NodeId
from skerry.core.types.resources import Resources
from skerry.core.types.slices import NodeSlice
from skerry.kit import record
from skerry.ports.store import Delete, Op
from skerry.services.control import keys, placer, rollouts, worlds
from skerry.services.node import agent
from skerry.services.site import controller
from skerry.testing.world import World, run_world

CITIES = {"lhr": 2, "cur": 1}
Plant = Callable[[pytest.MonkeyPatch], None]


def found_by(story: Callable[[World], Awaitable[None]], words: str, *, memory_mib: int = 1024) -> None:
    """The checks break off the story with these words."""

    async def begin() -> None:
        async with World(CITIES, memory_mib=memory_mib) as world:
            await world.settled()
            await story(world)

    with pytest.raises(AssertionError, match=words):
        run_world(begin())


async def two_versions(world: World) -> None:
    await world.deploy("hello")
    await world.settled()
    async with world.load("hello"):
        await world.deploy("hello")
        await world.clock.sleep_ms(5_000)


async def four_apps(world: World) -> None:
    for number in range(4):
        await world.deploy(f"app-{number}")
    await world.clock.sleep_ms(5_000)


def test_capacity_that_is_sold_twice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = worlds.Worlds.view

    def blind(self: worlds.Worlds, *args: Any) -> Any:
        return replace(real(self, *args), others=Resources())

    monkeypatch.setattr(worlds.Worlds, "view", blind)
    found_by(four_apps, "is sold", memory_mib=30)


def test_a_ledger_that_is_not_the_sum_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = placer.ledger_changes

    def forgetful(*args: Any, **kwargs: Any) -> Any:
        checks, ops = real(*args, **kwargs)
        return checks, [op for op in ops if not op.key.startswith("site-ledgers/cur")]

    monkeypatch.setattr(placer, "ledger_changes", forgetful)
    found_by(four_apps, "add up to")


def test_a_break_before_make_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The controller's own guard is taken away too."""
    real = controller.decide_site

    def hasty(given: SiteInput) -> SiteDecision:
        decision = real(given)
        wanted = {held.instance for held in decision.memory.held}
        routes = tuple(
            replace(route, targets=tuple(target for target in route.targets if target.instance in wanted))
            for route in decision.routes.routes
        )
        return replace(decision, routes=replace(decision.routes, routes=routes))

    monkeypatch.setattr(controller, "decide_site", hasty)
    monkeypatch.setattr(controller, "site_violations", lambda given, decision: ())
    found_by(two_versions, "hello fell from")


def test_a_decision_that_its_guard_stops_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = controller.decide_site

    def greedy(given: SiteInput) -> SiteDecision:
        decision = real(given)
        held = tuple(replace(item, reserve=Resources(memory_mib=1 << 20)) for item in decision.memory.held)
        return replace(decision, memory=replace(decision.memory, held=held))

    monkeypatch.setattr(controller, "decide_site", greedy)
    found_by(two_versions, "decision_violates")


def test_a_node_that_is_asked_for_more_than_it_has_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The controller's own guard is taken away too."""
    real = controller.decide_site

    def greedy(given: SiteInput) -> SiteDecision:
        decision = real(given)
        held = tuple(replace(item, reserve=Resources(memory_mib=1 << 20)) for item in decision.memory.held)
        return replace(decision, memory=replace(decision.memory, held=held))

    monkeypatch.setattr(controller, "decide_site", greedy)
    monkeypatch.setattr(controller, "site_violations", lambda given, decision: ())
    found_by(two_versions, "promise 1 .*(.|\n)*is asked")


def test_a_user_who_gets_an_error_while_another_city_could_answer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = controller.decide_site

    def alone(given: SiteInput) -> SiteDecision:
        decision = real(given)
        routes = tuple(replace(route, fallbacks=()) for route in decision.routes.routes)
        return replace(decision, routes=replace(decision.routes, routes=routes))

    monkeypatch.setattr(controller, "decide_site", alone)
    monkeypatch.setattr(controller, "site_violations", lambda given, decision: ())

    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.scale("hello", pin=["lhr"], max_total=1)
        await world.settled()
        async with world.load("hello"):
            await world.clock.sleep_ms(10_000)

    found_by(story, "promise 4 .*a healthy copy was in reach at lhr")


def test_routes_to_what_has_not_started_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile_site, "SERVING_STATES", frozenset(("starting", "running", "asleep", "dead")))
    monkeypatch.setattr(controller, "site_violations", lambda given, decision: ())
    found_by(two_versions, "never was ready")


def test_a_generation_that_goes_back_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def anything(self: agent.Agent, slice_: NodeSlice) -> bool:
        self._file.save(slice_)
        self._slice = slice_
        self._wake.set()
        return True

    def falling(self: controller.SiteController, node: NodeId, after: int) -> NodeSlice | None:
        held = self._handed.get(node)
        made = replace(held, generation=1_000 - held.generation) if held else None
        return made if made and made.generation != after else None

    monkeypatch.setattr(controller.SiteController, "_slice_for", falling)
    monkeypatch.setattr(agent.Agent, "accept", anything)
    found_by(two_versions, "follows 99")


def test_a_stale_executor_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A placer that commits without looking at who was there before."""
    real = placer.Placer._snapshot

    def orphaned(self: placer.Placer, *args: Any) -> Any:
        return replace(real(self, *args), parent=None, head=None)

    monkeypatch.setattr(placer.Placer, "_snapshot", orphaned)
    found_by(two_versions, "follows PlanHead")


def test_a_rejection_without_a_reason_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = controller.decide_site

    def silent(given: SiteInput) -> SiteDecision:
        decision = real(given)
        return replace(decision, refused=tuple(replace(item, rejections=()) for item in decision.refused))

    monkeypatch.setattr(controller, "decide_site", silent)
    monkeypatch.setattr(controller, "site_violations", lambda given, decision: ())
    monkeypatch.setattr(worlds.Worlds, "view", _roomy(worlds.Worlds.view))
    found_by(four_apps, "promise 8.*without a reason", memory_mib=14)


def _roomy(real: Any) -> Any:
    """The placer believes that nobody else is there, and no ledger stops it."""

    def view(self: worlds.Worlds, *args: Any) -> Any:
        return replace(real(self, *args), others=Resources())

    return view


def test_a_leaked_process_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that forgets to stop what its slice no longer names."""
    real = agent.reconcile_node

    def forgetful(*args: Any, **kwargs: Any) -> Any:
        return replace(real(*args, **kwargs), stop=())

    monkeypatch.setattr(agent, "reconcile_node", forgetful)

    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.settled()
        await world.delete("hello")
        await world.converged(limit_ms=30_000)

    found_by(story, "not converged(.|\n)*asked \\[\\], has")


def test_two_writers_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two controls that decide at once and commit without the checks of their snapshots: both replace the same plan."""
    real = placer.Placer._snapshot

    def unguarded(self: placer.Placer, *args: Any) -> Any:
        return replace(real(self, *args), checks=())

    monkeypatch.setattr(placer.Placer, "_snapshot", unguarded)

    async def story(world: World) -> None:
        world.add_control()
        await world.clock.sleep_ms(2_000)
        for _ in range(4):
            await world.deploy("hello")
            await world.clock.sleep_ms(3_000)

    found_by(story, "promise 3 .*(.|\n)*follows PlanHead")


def test_an_app_where_its_policy_forbids_it_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(world: Any, app: Any, *args: Any, **kwargs: Any) -> Any:
        return real(world, replace(app, scale=replace(app.scale, deny=())), *args, **kwargs)

    real = placer.place
    monkeypatch.setattr(placer, "place", blind)
    monkeypatch.setattr(placer, "plan_violations", lambda *args: ())

    async def story(world: World) -> None:
        await world.deploy("hello")
        await world.settled()
        await _deny(world, "country:CW")
        await world.clock.sleep_ms(1_000)
        await world.deploy("hello")
        await world.clock.sleep_ms(3_000)

    found_by(story, "promise 2 .*runs in cur")


async def _deny(world: World, place: str) -> None:
    app = next(app for app in world.apps() if app.name == "hello")
    changed = replace(app, scale=replace(app.scale, deny=(place,)), generation=app.generation + 1)
    await world.control.store.put(keys.app(app.account, app.name), record.encode(changed))


def test_an_acknowledged_upload_that_is_gone_is_found() -> None:
    async def story(world: World) -> None:
        first = await world.deploy("hello")
        await world.settled()
        await world.deploy("hello")
        await world.settled()
        at = keys.version(world.account.id, AppName("hello"), first.id)
        await world.control.store.transact((), (Delete(key=at),))
        await world.converged()

    found_by(story, "promise 7 .*was acknowledged and is gone")


def test_requests_that_reach_another_app_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = controller.decide_site

    def crossed(given: SiteInput) -> SiteDecision:
        decision = real(given)
        targets = [route.targets for route in decision.routes.routes]
        routes = tuple(replace(route, targets=targets[-1 - n]) for n, route in enumerate(decision.routes.routes))
        return replace(decision, routes=replace(decision.routes, routes=routes))

    monkeypatch.setattr(controller, "decide_site", crossed)
    monkeypatch.setattr(controller, "site_violations", lambda given, decision: ())
    found_by(four_apps, "promise 10 ")


def test_a_rollout_that_does_not_stop_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """It believes every site to be ready, and so do the seeds that deploy a bad version at their end."""
    real = rollouts.Rollouts._site_facts

    def hopeful(self: rollouts.Rollouts, *args: Any, **kwargs: Any) -> Any:
        return replace(real(self, *args, **kwargs), ready=True, failed=False)

    monkeypatch.setattr(rollouts.Rollouts, "_site_facts", hopeful)
    assert any(found.promise == 5 for seed in range(1, 31) for found in fuzzing.play_one(seed, 1).found)


def _with(name: str, owner: Any, change: Callable[[Any], Any]) -> Plant:
    """What `owner.name` returns is changed."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, **kwargs: change(real(*args, **kwargs)))

    return plant


def _silent(monkeypatch: pytest.MonkeyPatch) -> None:
    _with("decide_site", controller, lambda d: replace(d, refused=tuple(replace(r, rejections=()) for r in d.refused)))(
        monkeypatch
    )
    monkeypatch.setattr(controller, "site_violations", lambda given, decision: ())


def _taking_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both receivers of slices, whatever the generation."""

    def accept(self: Any, slice_: Any) -> bool:
        file = self._slice_file if isinstance(self, controller.SiteController) else self._file
        file.save(slice_)
        self._slice = slice_
        self._wake.set()
        return True

    monkeypatch.setattr(controller.SiteController, "accept", accept)
    monkeypatch.setattr(agent.Agent, "accept", accept)


def _without_plans(ops: list[Op]) -> list[Op]:
    return [op for op in ops if not op.key.startswith(keys.PLANS)]


KINDS: dict[str, tuple[Plant, set[int]]] = {
    "a reservation is sold twice": (_with("view", worlds.Worlds, lambda view: replace(view, others=Resources())), {1}),
    "two writers": (_with("_snapshot", placer.Placer, lambda snapshot: replace(snapshot, checks=())), {3}),
    "a stale executor": (_with("_snapshot", placer.Placer, lambda snapshot: replace(snapshot, parent=None, head=None)), {6}),
    "a receiver that takes what is stale": (_taking_anything, {6}),
    "a rejection without a reason": (_silent, {8}),
    "processes that are left": (_with("reconcile_node", agent, lambda actions: replace(actions, stop=())), {4, 9}),
    "records of what was deleted": (_with("_forget_ops", placer.Placer, _without_plans), {9}),
}
"""Each with the promises of which one is broken first."""


@pytest.mark.parametrize("kind", KINDS)
def test_random_worlds_find_every_kind_of_bug_within_few_seeds(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """All of these seeds keep every promise without it (`test_fuzz`)."""
    plant, promises = KINDS[kind]
    plant(monkeypatch)
    broken = (fuzzing.play_one(seed, 1).found for seed in range(1, 16))
    found = {entry.promise for entry in next((found for found in broken if found), ())}
    assert found & promises, found
