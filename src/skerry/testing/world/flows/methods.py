"""Who decides: the platform's method, and how other platforms would decide in the same world.

Each method is asked the same `Question` and answers with instances per app and site; packing inside the sites, routing and
detection are the same for all.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from msgspec.structs import replace as changed
from numpy.typing import NDArray

from skerry.core.placement.solve.again import place_again
from skerry.core.placement.solve.background import rebalance
from skerry.core.placement.solve.columns import place_reason
from skerry.core.placement.solve.solution import Solution
from skerry.core.placement.solve.whole import place_all
from skerry.core.types.problem import Bools, Floats, Problem, ProblemSite
from skerry.core.worlds.plans import with_homes

Ints = NDArray[np.int64]
FRAGMENTS = 0.97  # of a site's room is counted on: what is left between instances is of no use
NEAREST = 4  # cities that each app chooses for itself


@dataclass(frozen=True)
class Question:
    """What control knows: `problem` has the states, nodes and demand that were reported, `now` the instances that run (A × S).

    `apps`: those to be decided; None: all. `first_demand` is the demand of the first decision, rps per app and metro.
    """

    problem: Problem
    now: Ints
    allowed: Bools  # A × S, see `allowed`
    apps: tuple[int, ...] | None = None
    first_demand: Floats | None = None


@dataclass(frozen=True)
class Decided:
    """`counts`: A × S. `gap`: how far from the optimum at most, `homes`: sites of all data, where the method decides them."""

    counts: Ints
    gap: float | None = None
    homes: Ints | None = None


class Method(Protocol):
    @property
    def name(self) -> str: ...

    def decide(self, question: Question) -> Decided:
        """Deterministic: equal questions have equal answers."""
        ...


class Table:
    """A problem as what methods compute with; room is what is left as apps take it."""

    def __init__(self, question: Question) -> None:
        problem = question.problem
        self.problem = problem
        self.allowed = question.allowed
        self.now = question.now
        self.rates = np.array([app.rps_per_instance for app in problem.apps])
        self.demand = np.zeros((len(problem.apps), len(problem.metros)))
        for at in range(len(problem.apps)):
            metro, rps = problem.demand.of(at)
            self.demand[at, metro] = rps
        sizes = [(app.reserve.cpu_millicores, app.reserve.memory_mib, app.reserve.disk_mib) for app in problem.apps]
        self.size = np.array(sizes, dtype=np.float64).reshape(len(sizes), 3)
        node = np.array([(s.node.cpu_millicores, s.node.memory_mib, s.node.disk_mib) for s in problem.sites], dtype=np.float64)
        usable = np.array([s.nodes * (1.0 - s.reserve) if s.state == "up" else 0.0 for s in problem.sites])
        self.node = node
        self.free = node * usable[:, None] * FRAGMENTS
        self._nodes = np.floor(usable)

    def room(self, app: int) -> Ints:
        """Instances of the app that fit at each site, into what is left; a node holds whole ones."""
        size = np.maximum(self.size[app], 1e-9)
        left = np.floor(self.free / size + 1e-9).min(axis=1)
        whole = np.floor(self.node / size + 1e-9).min(axis=1) * self._nodes
        return np.where(self.allowed[app], np.maximum(0.0, np.minimum(left, whole)), 0.0).astype(np.int64)

    def take(self, app: int, counts: Ints) -> None:
        self.free = np.maximum(0.0, self.free - counts[:, None] * self.size[app])

    def needed(self, app: int) -> int:
        """Instances for all of its demand."""
        return max(self.problem.apps[app].min_total, int(np.ceil(self.demand[app].sum() / self.rates[app] - 1e-9)))

    def by_importance(self) -> list[int]:
        """Apps in the order in which they are served first: by priority, then the largest demand."""
        apps = self.problem.apps
        return sorted(range(len(apps)), key=lambda at: (-apps[at].priority, -float(self.demand[at].sum()), apps[at].app))


class Platform:
    """`core.placement.solve`: a whole plan first, then what changed again; and when all apps are looked at, what gains most
    within the budget of moves."""

    name = "skerry"

    def __init__(self) -> None:
        self._solution: Solution | None = None

    def decide(self, question: Question) -> Decided:
        before = self._solution
        if before is None:
            found = place_all(question.problem)
        else:
            found = place_again(with_homes(question.problem, before.homes), before)
            if question.apps is None:
                found = rebalance(with_homes(question.problem, found.homes), found)
        self._solution = found
        counts = np.zeros_like(question.now)
        counts[found.instances.app, found.instances.site] = found.instances.count
        return Decided(counts=counts, gap=found.gap, homes=found.homes)


class FreeReplicas:
    """Karmada's dynamic weights: an app's replicas are divided over clusters in proportion to how many each could hold."""

    name = "karmada"

    def decide(self, question: Question) -> Decided:
        def divide(table: Table, at: int) -> Ints:
            room = table.room(at)
            return np.minimum(largest_remainders(room.astype(np.float64), table.needed(at)), room)

        return _each(question, divide)


class PerRegion:
    """Nomad's multiregion: a count per region, fixed when the job was made (by the demand then); inside, spread by free room.

    It is asked again when a site is lost, since Nomad places lost allocations anew in the same region.
    """

    name = "nomad"

    def decide(self, question: Question) -> Decided:
        problem = question.problem
        regions = sorted({site.region for site in problem.sites})
        of_site = np.array([regions.index(site.region) for site in problem.sites])
        nearest = np.argmin(problem.rtt_ms, axis=1)
        of_metro = of_site[nearest]
        first = question.first_demand

        def divide(table: Table, at: int) -> Ints:
            room = table.room(at)
            demand = table.demand[at] if first is None else first[at]
            wish = np.bincount(of_metro, demand, len(regions))
            allowed_here = np.array([bool(table.allowed[at][of_site == r].any()) for r in range(len(regions))])
            total = max(problem.apps[at].min_total, int(np.ceil(demand.sum() / table.rates[at] - 1e-9)))
            per_region = largest_remainders(np.where(allowed_here, wish + 1e-9, 0.0), total)
            counts = np.zeros(len(problem.sites), dtype=np.int64)
            for region, count in enumerate(per_region):
                inside = np.where(of_site == region, room, 0)
                counts += np.minimum(largest_remainders(inside.astype(np.float64), int(count)), inside)
            return counts

        return _each(question, divide)


class NearestK:
    """Each app in the k cities nearest to its users, whatever the others do; what a city cannot hold is refused there."""

    name = "nearest"

    def decide(self, question: Question) -> Decided:
        def divide(table: Table, at: int) -> Ints:
            return _nearest(table, at)

        return _each(question, divide, others=False)


class Everywhere:
    """Every app in every city that it may run in, with as many instances as that city's own users need (one at least)."""

    name = "everywhere"

    def decide(self, question: Question) -> Decided:
        nearest = np.argmin(np.where(_up(question.problem.sites)[None, :], question.problem.rtt_ms, np.inf), axis=1)

        def divide(table: Table, at: int) -> Ints:
            load = np.bincount(nearest, table.demand[at], len(table.node))
            wish = np.maximum(1, np.ceil(load / table.rates[at] - 1e-9)).astype(np.int64)
            return np.minimum(wish, table.room(at))

        return _each(question, divide)


def platform_method() -> Method:
    """What Skerry does."""
    return Platform()


BASELINES: dict[str, Callable[[], Method]] = {
    "karmada": FreeReplicas,
    "nomad": PerRegion,
    "nearest": NearestK,
    "everywhere": Everywhere,
}


def largest_remainders(weight: Floats, total: int) -> Ints:
    """`total` in proportion to the weights, in whole numbers (Hamilton's method); ties go to the lower index."""
    whole = float(weight.sum())
    if whole <= 0.0 or total <= 0:
        return np.zeros(len(weight), dtype=np.int64)
    exact = weight * (total / whole)
    counts = np.floor(exact + 1e-9).astype(np.int64)
    missing = total - int(counts.sum())
    if missing > 0:
        counts[np.argsort(-(exact - counts), kind="stable")[:missing]] += 1
    return counts


def allowed(problem: Problem) -> Bools:
    """A × S: where policy, features, jurisdiction and the size of nodes let an app run."""
    sites = [changed(site, state="up") for site in problem.sites]  # states come and go
    rows = [[place_reason(site, app) is None and app.reserve.fits_in(site.node) for site in sites] for app in problem.apps]
    return np.array(rows, dtype=np.bool_).reshape(len(problem.apps), len(problem.sites))


def names(place: str, site: ProblemSite) -> bool:
    """Whether a place's name (a site id, `country:GB`, `region:weur` or `*`) means the site."""
    return place in ("*", site.id, f"country:{site.country}", f"region:{site.region}")


def _up(sites: tuple[ProblemSite, ...]) -> Bools:
    return np.array([site.state == "up" for site in sites])


def _each(question: Question, divide: Callable[[Table, int], Ints], *, others: bool = True) -> Decided:
    """Apps in order of importance; `others` False: none of them sees what another has taken."""
    table = Table(question)
    counts = np.zeros_like(question.now)
    for at in table.by_importance():
        counts[at] = divide(table, at)
        if others:
            table.take(at, counts[at])
    if question.apps is not None:
        kept = question.now.copy()
        kept[list(question.apps)] = counts[list(question.apps)]
        counts = kept
    return Decided(counts=counts)


def _nearest(table: Table, at: int) -> Ints:
    problem, demand = table.problem, table.demand[at]
    open_to = table.allowed[at] & _up(problem.sites)
    counts = np.zeros(len(problem.sites), dtype=np.int64)
    if not open_to.any():
        return counts
    rtt = np.where(open_to[None, :], problem.rtt_ms, np.inf)
    load = np.bincount(np.argmin(rtt, axis=1), demand, len(counts))
    chosen = [int(site) for site in np.argsort(-load, kind="stable")[:NEAREST] if open_to[site]]
    inside = np.full_like(rtt, np.inf)
    inside[:, chosen] = rtt[:, chosen]
    load = np.bincount(np.argmin(inside, axis=1), demand, len(counts))
    counts[chosen] = np.maximum(1, np.ceil(load[chosen] / table.rates[at] - 1e-9)).astype(np.int64)
    return counts


def with_headroom(problem: Problem, headroom: float) -> Problem:
    """The same question with so much more demand: capacity for what comes before the next decision."""
    demand = problem.demand
    return replace(problem, demand=replace(demand, rps=demand.rps * headroom))
