"""Bugs that somebody might write, planted: the checks from outside have to find each of them."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from msgspec.structs import replace

from skerry.core.reconcile import site as reconcile_site
from skerry.core.reconcile.site_types import SiteDecision, SiteInput
from skerry.core.types.ids import NodeId
from skerry.core.types.resources import Resources
from skerry.core.types.slices import NodeSlice
from skerry.services.control import placer
from skerry.services.node import agent
from skerry.services.site import controller
from skerry.testing.world import World, run_world

CITIES = {"lhr": 2, "cur": 1}


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
    real = placer.Placer._site_view

    def blind(self: placer.Placer, intent: Any, key: Any) -> Any:
        return replace(real(self, intent, key), others=Resources())

    monkeypatch.setattr(placer.Placer, "_site_view", blind)
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

    def orphaned(self: placer.Placer, key: Any, evaluations: Any) -> Any:
        return replace(real(self, key, evaluations), parent=None, head=None)

    monkeypatch.setattr(placer.Placer, "_snapshot", orphaned)
    found_by(two_versions, "follows PlanHead")
