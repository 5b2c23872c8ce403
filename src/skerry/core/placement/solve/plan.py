"""What a whole decision consists of, and what it costs."""

from dataclasses import dataclass

import numpy as np

from skerry.core.placement.solve.arrays import floats, sums, upto
from skerry.core.placement.solve.ask import Ints
from skerry.core.placement.solve.columns import Columns, Instances
from skerry.core.types.problem import PRIORITY_NEUTRAL, Floats


@dataclass(frozen=True)
class Flows:
    """Who is served where, by app, then metro, then site; rps above 0."""

    app: Ints
    metro: Ints
    site: Ints
    rps: Floats


@dataclass(frozen=True)
class Unserved:
    """Demand that nobody serves; rps above 0."""

    app: Ints
    metro: Ints
    rps: Floats


@dataclass(frozen=True)
class Terms:
    """J, term by term."""

    latency: float
    late: float
    unserved: float
    cost: float
    move: float
    home: float

    @property
    def total(self) -> float:
        return self.latency + self.late + self.unserved + self.cost + self.move + self.home


@dataclass(frozen=True)
class Draft:
    """A whole decision in the order of `Columns`. `homes`: a site by position in the problem's data."""

    placed: Instances
    flows: Flows
    unserved: Unserved
    homes: Ints


def terms_of(columns: Columns, draft: Draft) -> Terms:
    """J of a draft, from nothing but the draft and the problem."""
    problem, flows, placed = columns.problem, draft.flows, draft.placed
    weights = problem.weights
    serve = serve_of(columns, flows, draft.homes)
    priority = columns.priority / PRIORITY_NEUTRAL
    over = np.maximum(0.0, serve - columns.objective_ms[flows.app])
    price = np.einsum("ik,ik->i", columns.price[placed.site], columns.reserve[placed.app])
    homes = columns.homes_now
    size = np.array([data.size_gib for data in problem.data])
    return Terms(
        latency=weights.latency * float(flows.rps @ serve),
        late=weights.late * float((flows.rps * priority[flows.app]) @ over),
        unserved=weights.unserved * float(draft.unserved.rps @ priority[draft.unserved.app]),
        cost=float(price @ placed.count),
        move=weights.move * moves(columns.now, placed, columns.sites),
        home=weights.home * float(size[draft.homes != homes].sum()) if len(size) else 0.0,
    )


def serve_of(columns: Columns, flows: Flows, homes: Ints) -> Floats:
    """ms per request of each flow, data calls included."""
    app, data, calls = columns.calls
    start = np.searchsorted(app, upto(columns.apps + 1))
    count = np.diff(start)[flows.app]
    rows = np.repeat(upto(len(count)), count)  # a flow once for each of its app's calls
    at = start[flows.app[rows]] + upto(len(rows)) - np.repeat(np.cumsum(count) - count, count)
    away = calls[at] * columns.site_rtt[flows.site[rows], homes[data[at]]]
    return floats(columns.rtt[flows.site, flows.metro] + sums(rows, away, len(count)))


def moves(now: Instances, placed: Instances, sites: int) -> int:
    """Instances started and stopped against what runs now."""
    have, want = now.app * sites + now.site, placed.app * sites + placed.site
    _, at_now, at_placed = np.intersect1d(have, want, assume_unique=True, return_indices=True)
    common = np.minimum(now.count[at_now], placed.count[at_placed]).sum()
    return int(now.count.sum() + placed.count.sum() - 2 * common)


def merged(flows: Flows, columns: Columns) -> Flows:
    """Sorted, equal rows added up, empty ones left out."""
    sites, metros = columns.sites, columns.rtt.shape[1]
    keys = (flows.app * metros + flows.metro) * sites + flows.site
    found, rows = np.unique(keys, return_inverse=True)
    total = sums(np.asarray(rows, dtype=np.int64), flows.rps, len(found))
    kept = np.flatnonzero(total > 0.0)
    found, total = found[kept], total[kept]
    return Flows(found // (metros * sites), found // sites % metros, found % sites, total)


def merged_unserved(app: Ints, metro: Ints, rps: Floats, metros: int) -> Unserved:
    """Sorted, equal rows added up, empty ones left out."""
    found, rows = np.unique(app * metros + metro, return_inverse=True)
    total = sums(np.asarray(rows, dtype=np.int64), rps, len(found))
    kept = np.flatnonzero(total > 0.0)
    return Unserved(found[kept] // metros, found[kept] % metros, total[kept])


def pair_apps(columns: Columns) -> Ints:
    """The app of every row of the demand."""
    return np.repeat(upto(columns.apps), np.diff(columns.problem.demand.start))
