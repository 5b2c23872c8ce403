"""`skerry place`: a world's files in, a plan out."""

import time
from collections.abc import Sequence
from pathlib import Path

from skerry.adapters.forked import forked
from skerry.adapters.worlds import read_plan, read_world, write_plan
from skerry.core.placement.bundles import Budget
from skerry.core.placement.solve.again import place_again, proven_again
from skerry.core.placement.solve.background import rebalance
from skerry.core.placement.solve.plan import moves
from skerry.core.placement.solve.reasons import rejected
from skerry.core.placement.solve.solution import Solution
from skerry.core.placement.solve.whole import place_all
from skerry.core.types.problem import Problem
from skerry.core.worlds.events import apply_event
from skerry.core.worlds.plans import ObjectiveLine, format_plan, modelled_pairs, objective_line, with_homes
from skerry.kit.record import Record, encode

SHORT_SHOWN_MAX = 5


class Placed(Record, omit_defaults=False):
    """A plan in numbers. `moves`: instances started and stopped against what ran before; None without a plan to go on from."""

    plan: str
    apps: int
    sites: int
    instances: int
    demand_rps: float
    unserved_rps: float
    mean_ms: float
    objective: ObjectiveLine
    bound: float | None
    gap: float | None
    moves: int | None
    moved_homes: int
    short: tuple[tuple[str, str, int], ...]
    modelled_pairs: int
    seconds: float


def place(world: Path, out: Path, before: Path | None, events: Sequence[str], *, starts_max: int = 0, json: bool) -> None:
    """Read, decide, write, say. Raises `WorldError`; then nothing is written. `starts_max`: instances that a background pass may
    start after that; 0: there is none."""
    problem = read_world(world)
    running = read_plan(before, problem) if before is not None else None
    if running is not None:
        problem = with_homes(problem, running.homes)
    for event in events:
        problem = apply_event(problem, event)
    began = time.perf_counter()
    if running is None:
        solution = place_all(problem, spread=forked)
    else:
        solution = place_again(problem, running)
        if starts_max > 0:
            solution = rebalance(with_homes(problem, solution.homes), solution, Budget(moves=starts_max), forked)
        solution = proven_again(problem, running, solution, forked)
    seconds = time.perf_counter() - began
    write_plan(out, format_plan(problem, solution, rejected(problem, solution), seconds))
    said = _counts(problem, solution, running, out, seconds)
    print(encode(said).decode()) if json else _print(said)


def _counts(problem: Problem, solution: Solution, running: Solution | None, out: Path, seconds: float) -> Placed:
    terms = solution.objective
    served = float(solution.flows.rps.sum())
    homes = [problem.sites[int(at)].id for at in solution.homes]
    weight = problem.weights.latency
    return Placed(
        plan=str(out),
        apps=len(problem.apps),
        sites=len(problem.sites),
        instances=int(solution.instances.count.sum()),
        demand_rps=float(problem.demand.rps.sum()),
        unserved_rps=float(solution.unserved.rps.sum()),
        mean_ms=terms.latency / weight / served if served and weight else 0.0,
        objective=objective_line(terms),
        bound=solution.bound,
        gap=solution.gap,
        moves=moves(running.instances, solution.instances, len(problem.sites)) if running is not None else None,
        moved_homes=sum(home != item.home for home, item in zip(homes, problem.data, strict=True)),
        short=tuple((problem.apps[app].app, limit, missing) for app, limit, missing in solution.short),
        modelled_pairs=modelled_pairs(problem),
        seconds=round(seconds, 3),
    )


def _print(said: Placed) -> None:
    terms = said.objective
    print(f"{said.plan}: {said.apps:,} apps, {said.instances:,} instances in {said.sites} cities, {said.seconds:.2f} s")
    served = said.demand_rps - said.unserved_rps
    print(f"  {served:,.0f} of {said.demand_rps:,.0f} requests per second served, {said.mean_ms:.1f} ms in the mean")
    parts = ("latency", "late", "unserved", "cost", "move", "home")
    print(f"  J {terms.total:,.0f}: " + ", ".join(f"{name} {getattr(terms, name):,.0f}" for name in parts))
    if said.bound is not None and said.gap is not None:
        print(f"  at least {said.bound:,.0f} for any plan: this one is at most {said.gap:.2%} above the best")
    if said.moves is not None:
        print(f"  {said.moves:,} instances started or ended, {said.moved_homes} homes moved")
    for app, limit, missing in said.short[:SHORT_SHOWN_MAX]:
        print(f"  {app}: {limit} not met, {missing} instances off")
    if len(said.short) > SHORT_SHOWN_MAX:
        print(f"  … and {len(said.short) - SHORT_SHOWN_MAX} more limits not met")
    if said.modelled_pairs:
        print(f"  {said.modelled_pairs:,} round trips are modelled, not measured")
