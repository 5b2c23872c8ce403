"""A scenario played: its world, the platform's method, the baselines."""

from collections.abc import Callable
from pathlib import Path

from skerry.adapters.worlds import make_problem, read_world
from skerry.apps.sim.report import Played, SimReport, make_report
from skerry.apps.sim.scenario import Scenario, WorldWish, check_names
from skerry.core.types.problem import Problem
from skerry.core.worlds.faults import WorldError, meant
from skerry.core.worlds.plans import with_homes
from skerry.testing.world.flows.events import play as play_story
from skerry.testing.world.flows.methods import BASELINES, Method, platform_method

OnTime = Callable[[str, float], None]
"""Hears (method, how much of the virtual time has passed since the last call, as a share of one method's run)."""


def world_of(wish: WorldWish, directory: Path | None) -> Problem:
    """`directory` instead of what the scenario names. Raises `WorldError`."""
    where = directory or (Path(wish.directory) if wish.directory else None)
    if where is not None:
        return read_world(where)
    return make_problem(
        cities=wish.cities,
        apps=wish.apps,
        seed=wish.seed,
        load=wish.load,
        nodes_of_london=wish.nodes_of_london,
        node_scale=wish.node_scale,
    )


def methods_of(baselines: tuple[str, ...]) -> list[Method]:
    """The platform's first. `all` is every baseline. Raises `WorldError`."""
    for name in baselines:
        if name not in (*BASELINES, "all"):
            raise WorldError("--baseline", 0, "", f"{name!r} is no baseline; {meant(name, (*BASELINES, 'all'))}")
    wanted = tuple(BASELINES) if "all" in baselines else tuple(dict.fromkeys(baselines))
    return [platform_method(), *(BASELINES[name]() for name in wanted)]


def play(scenario: Scenario, problem: Problem, methods: list[Method], on_time: OnTime) -> SimReport:
    """All methods, one after the other, in the same story."""
    check_names(scenario, problem)
    own, *others = methods
    runs = [_run(scenario, problem, own, on_time)]
    # Baselines do not move data: they get it where the platform had it in the end, so that only the code's places differ.
    at_home = with_homes(problem, runs[0].run.homes)
    runs += [_run(scenario, at_home, method, on_time) for method in others]
    return make_report(scenario, problem, runs)


def _run(scenario: Scenario, problem: Problem, method: Method, on_time: OnTime) -> Played:
    last = 0

    def heard(now_ms: int) -> None:
        nonlocal last
        on_time(method.name, (now_ms - last) / scenario.story.duration_ms)
        last = now_ms

    return Played(*play_story(problem, scenario.story, method, heard))
