"""A whole world's demand as some thousand rows, for its prices.

Apps that ask alike are a row per metro. An app that follows its data is one row: where its data is, or where it would have
it. The largest rows are there as they are; the others are stood for by every so many-th, in the order of metros.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from skerry.core.placement.solve.arrays import floats, ranked, sums, upto
from skerry.core.placement.solve.ask import Ints
from skerry.core.placement.solve.columns import Columns
from skerry.core.placement.solve.costs import CHUNK, Costs, Small, calls_per_request
from skerry.core.placement.solve.equilibrium import Rows
from skerry.core.placement.solve.homes import home_prices
from skerry.core.placement.solve.plan import pair_apps
from skerry.core.types.problem import PRIORITY_NEUTRAL, Bools, Floats

DRAWN_BY_DATA = 0.7  # calls per request from which on an app's requests go where its data is
LARGEST = 8_000  # rows that are there as they are
SAMPLED = 6_000  # rows that stand for the others


@dataclass(frozen=True)
class Crowd:
    """What stays the same while homes move: who is a row of its own, and which rows stand for all."""

    app: Ints  # [rows]
    metro: Ints  # [rows], −1: all metros of the app
    rps: Floats  # [rows]


def drawn_by_data(columns: Columns) -> Bools:
    """[A]: whose data is theirs to move, and more than their users decides where they run."""
    return (calls_per_request(columns) >= DRAWN_BY_DATA) & movable(columns)


def movable(columns: Columns) -> Bools:
    """[A]: whose movable data is all their own, and is there."""
    return np.array(
        [len(own) > 0 and len(own) == len(loose) for own, loose in zip(columns.own, columns.loose, strict=True)], dtype=np.bool_
    )


def crowd_of(columns: Columns, apart: Ints) -> Crowd:
    """All demand but that of the apps `apart`."""
    app, metro, rps = pair_apps(columns), columns.problem.demand.metro.astype(np.int64), columns.problem.demand.rps
    kept = np.ones(columns.apps, dtype=np.bool_)
    kept[apart] = False
    drawn = drawn_by_data(columns)
    single = np.flatnonzero(kept[app] & ~drawn[app])
    whole = np.flatnonzero(kept & drawn)
    total = sums(app, rps, columns.apps)[whole]
    app, metro, rps = _alike(columns, app[single], metro[single], rps[single])
    app = np.concatenate((app, whole[total > 0.0]))
    metro = np.concatenate((metro, np.full(int((total > 0.0).sum()), -1, dtype=np.int64)))
    rps = np.concatenate((rps, total[total > 0.0]))
    order = np.lexsort((app, metro))
    app, metro, rps = app[order], metro[order], rps[order]
    rows, rps = standing_for_all(rps, upto(len(rps)))
    order = np.argsort(rows, kind="stable")
    return Crowd(app[rows[order]], metro[rows[order]], rps[order])


def _alike(columns: Columns, app: Ints, metro: Ints, rps: Floats) -> tuple[Ints, Ints, Floats]:
    """Requests from one metro of apps that ask for the same, together; each is stood for by its first app."""
    same = np.stack(
        [
            columns.policy_of,
            columns.shape_of,
            np.unique(columns.rate, return_inverse=True)[1].ravel(),
            np.unique(np.stack([columns.objective_ms, columns.priority]), axis=1, return_inverse=True)[1].ravel(),
            np.where(calls_per_request(columns) > 0.0, upto(columns.apps), -1),
        ]
    )
    kind = np.asarray(np.unique(same, axis=1, return_inverse=True)[1], dtype=np.int64).ravel()
    _, first, rows = np.unique(kind[app] * columns.rtt.shape[1] + metro, return_index=True, return_inverse=True)
    rows = np.asarray(rows, dtype=np.int64).ravel()
    return app[first], metro[first], sums(rows, rps, len(first))


def fewer(rows: Rows, largest: int, sampled: int) -> Rows:
    """Some rows that stand for all."""
    some, rps = standing_for_all(rows.rps, upto(len(rows.rps)), largest, sampled)
    return Rows(rows.cost[some], rps, rows.each[some], rows.lost[some])


def standing_for_all(rps: Floats, order: Ints, largest: int = LARGEST, sampled: int = SAMPLED) -> tuple[Ints, Floats]:
    """The largest rows, and of the others some in proportion to their rps, each for an equal part of what those have in all."""
    if len(rps) <= largest + sampled:
        return upto(len(rps)), rps
    large = np.sort(ranked(-rps, largest))
    rest = order[~np.isin(order, large)]
    reached = np.cumsum(rps[rest])
    total = float(reached[-1])
    at = np.minimum(np.searchsorted(reached, (upto(sampled) + 0.5) * (total / sampled)), len(rest) - 1)
    some, times = np.unique(rest[at], return_counts=True)
    return np.concatenate((large, some)), floats(np.concatenate((rps[large], times * (total / sampled))))


def rows_of(columns: Columns, crowd: Crowd, homes: Ints, *, settled: Bools) -> Rows:
    """The crowd's rows with data at these homes; an app that is drawn by movable data takes it along, unless it is `settled`."""
    moves = ~settled
    costs = Costs(columns, homes, np.zeros_like(columns.capacity), started=True)
    cost = np.empty((len(crowd.app), columns.sites), dtype=np.float32)
    single = np.flatnonzero(crowd.metro >= 0)
    for start in range(0, len(single), CHUNK):
        part = single[start : start + CHUNK]
        cost[part] = costs.of(crowd.app[part], crowd.metro[part])
    along = moves[crowd.app]
    stays = np.flatnonzero((crowd.metro < 0) & ~along)
    cost[stays] = mean_costs(columns, costs, crowd.app[stays])
    goes = np.flatnonzero((crowd.metro < 0) & along)
    taken = crowd.app[goes]
    loose = np.concatenate([upto(0), *(columns.own[int(app)] for app in taken)])
    free = Costs(columns, homes, np.zeros_like(columns.capacity), started=True, without=loose)
    cost[goes] = mean_costs(columns, free, taken) + _moving(columns, taken)
    return made(columns, crowd.app, crowd.rps, cost)


def made(columns: Columns, app: Ints, rps: Floats, cost: Small) -> Rows:
    lost = columns.problem.weights.unserved * columns.priority[app] / PRIORITY_NEUTRAL
    return Rows(cost, rps, columns.reserve[app] / columns.rate[app][:, None], lost)


def mean_costs(columns: Columns, costs: Costs, apps: Ints) -> Small:
    """[apps, S]: of a request, all metros of an app together."""
    demand = columns.problem.demand
    found = np.empty((len(apps), columns.sites), dtype=np.float32)
    lengths = np.diff(demand.start)[apps]
    for part in chunks(lengths):
        rows, owner = pair_rows(columns, apps[part])
        cost = costs.of(apps[part][owner], demand.metro[rows].astype(np.int64))
        rps = demand.rps[rows]
        start = np.concatenate(([0], np.cumsum(lengths[part])[:-1]))
        weight = (rps / np.repeat(np.add.reduceat(rps, start), lengths[part])).astype(np.float32)
        cost *= weight[:, None]
        found[part] = np.add.reduceat(cost, start, axis=0)
    return found


def pair_rows(columns: Columns, apps: Ints) -> tuple[Ints, Ints]:
    """The rows of demand of some apps, app by app, and the position of each row's app in `apps`."""
    start, lengths = columns.problem.demand.start[apps], np.diff(columns.problem.demand.start)[apps]
    owner = np.repeat(upto(len(apps)), lengths)
    before = np.cumsum(lengths) - lengths
    return start[owner] + upto(len(owner)) - before[owner], owner


def chunks(lengths: Ints) -> Sequence[slice]:
    """Parts of some apps with about CHUNK rows each; apps without rows belong nowhere."""
    ends = np.cumsum(lengths) // CHUNK
    edges = np.flatnonzero(np.diff(ends)) + 1
    edges = [0, *edges.tolist(), len(lengths)]
    return [slice(left, right) for left, right in pairwise(edges) if right > left]


def _moving(columns: Columns, apps: Ints) -> Small:
    """[apps, S] J per request of taking all its own data there; infinite where that may not be."""
    total = sums(pair_apps(columns), columns.problem.demand.rps, columns.apps)
    price = [home_prices(columns, int(app)) / total[app] for app in apps]
    return np.array(price, dtype=np.float32).reshape(len(apps), columns.sites)
