"""What each kind of happening does to a world, and how it ends."""

from collections.abc import Callable
from functools import partial

import numpy as np

from skerry.core.types.problem import Problem
from skerry.testing.world.flows.engine import FlowWorld, Run
from skerry.testing.world.flows.methods import Method
from skerry.testing.world.flows.releases import Outcome, Releases
from skerry.testing.world.flows.story import Happening, Story
from skerry.testing.world.flows.upkeep import Upkeep


def play(
    problem: Problem, story: Story, method: Method, on_time: Callable[[int], None] = lambda ms: None
) -> tuple[Run, list[Outcome]]:
    """The whole story under one method; deterministic. `on_time` hears how far it is, in virtual ms."""
    world = FlowWorld(problem, story, method)
    releases = Releases(world)
    for event in story.events:
        world.at(event.at_ms, partial(_happen, world, releases, event))
    return world.run(on_time), releases.outcomes


def _happen(world: FlowWorld, releases: Releases, event: Happening) -> None:
    """Now. What has a `for_ms` is taken back then."""
    if event.kind == "deploy":
        for app in world.apps(event.apps):
            releases.begin(app, event.version)
    else:
        _BEGIN[event.kind](world, event)


def _lost(world: FlowWorld, event: Happening) -> None:
    sites = world.places(event.places)
    for at in sites:
        world.planes[at].die(world.planes[at].nodes)
    world.traffic.living[sites] = False
    world.traffic.instances[:, sites] = 0.0
    world.traffic.roads_changed()
    world.silent(sites)

    def withdrawn() -> None:
        world.traffic.visible[[at for at in sites if not world.traffic.living[at]]] = False
        world.traffic.roads_changed()

    def back() -> None:
        for at in sites:
            plane = world.planes[at]
            plane.revive(plane.nodes)
            plane.restart(world.now_ms)
            world.traffic.living[at] = True
            world.traffic.visible[at] = True
        world.touch(sites)
        world.after(world.pace.start_ms, lambda: world.touch(sites))
        world.traffic.roads_changed()
        world.connect(sites)

    world.after(world.pace.anycast_ms, withdrawn)
    _later(world, event, back)


def _nodes_lost(world: FlowWorld, event: Happening) -> None:
    gone = {at: _some(world.planes[at].nodes, event.share) for at in world.places(event.places)}
    for at, nodes in gone.items():
        nodes_down(world, at, nodes)

    def back() -> None:
        for at, nodes in gone.items():
            nodes_up(world, at, nodes)

    _later(world, event, back)


def nodes_down(world: FlowWorld, at: int, nodes: tuple[str, ...]) -> None:
    """They are gone now; ingresses notice by their checks, the site's controller by silence."""
    plane = world.planes[at]
    before = plane.serving(world.now_ms)
    plane.die(nodes)
    lost = before - plane.serving(world.now_ms)
    for name, count in lost.items():
        world.traffic.ghosts[world.apps((name,))[0], at] += count
    world.touch([at])

    def checked() -> None:
        for name, count in lost.items():
            app = world.apps((name,))[0]
            world.traffic.ghosts[app, at] = max(0.0, world.traffic.ghosts[app, at] - count)
            world.traffic.touch(np.array([app]))

    def noticed() -> None:
        plane.mark(tuple(node for node in nodes if not plane.alive((node,))), "down")
        world.heard(at)
        world.repack(at)

    world.after(world.pace.check_ms, checked)
    world.after(world.pace.node_lost_ms, noticed)


def nodes_up(world: FlowWorld, at: int, nodes: tuple[str, ...]) -> None:
    """They booted, and what still fits nowhere else comes to them."""
    plane = world.planes[at]
    plane.revive(nodes)
    plane.mark(nodes, "up")
    world.heard(at)
    world.repack(at)


def _slow(world: FlowWorld, event: Happening) -> None:
    world.road(event, on=True)
    _later(world, event, lambda: world.road(event, on=False))


def _demand(world: FlowWorld, event: Happening) -> None:
    world.surge(event, on=True)
    _later(world, event, lambda: world.surge(event, on=False))


def _cut_off(world: FlowWorld, event: Happening) -> None:
    sites = world.places(event.places)
    if event.share:
        step = max(1, round(1 / event.share))
        sites = sites[::step]
    world.cut(sites)
    _later(world, event, lambda: world.connect(sites))


def _shrink(world: FlowWorld, event: Happening) -> None:
    sites = world.places(event.places)
    for at in sites:
        world.shrunk(at, 1.0 - event.share)

    def back() -> None:
        for at in sites:
            world.shrunk(at, 1.0)

    _later(world, event, back)


def _reboot(world: FlowWorld, event: Happening) -> None:
    Upkeep(world, event).begin()


def _later(world: FlowWorld, event: Happening, back: Callable[[], None]) -> None:
    if event.for_ms is not None:
        world.after(event.for_ms, back)


def _some(nodes: tuple[str, ...], share: float) -> tuple[str, ...]:
    return nodes[: min(len(nodes), max(1, round(len(nodes) * share)))]


_BEGIN = {
    "lost": _lost,
    "nodes-lost": _nodes_lost,
    "slow": _slow,
    "demand": _demand,
    "cut-off": _cut_off,
    "shrink": _shrink,
    "reboot": _reboot,
}
