"""Where movable data has its home: decided together with the code that calls it, and bounded over all homes at once.

A request that is served at s and calls data at h, k times, costs RTT(metro, s) + k · RTT(s, h). Below that for every s lies the
way through the best s: for k ≥ 1 the least of RTT + RTT, for less k parts of it and 1 − k of the nearest site. That ranks all
homes in one product; the best are then priced exactly as if instances could be had by the request.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skerry.core.placement.solve.arrays import floats, ranked, upto
from skerry.core.placement.solve.ask import Ints, late_weight, latency_cost, unserved_cost
from skerry.core.placement.solve.bound import SAFETY
from skerry.core.placement.solve.columns import Columns
from skerry.core.placement.solve.desk import Desk, State
from skerry.core.types.problem import Bools, Floats

SINGLE_SAFETY = 1e-6  # ways are kept in single precision: a bound by them is this part lower than it need be
LARGE = 0.2  # of the largest site: from here on an app by itself feels how large sites are
PRICED_MAX = 16  # homes that are priced exactly, of each app
CALL_LEVELS = (0.5, 1.0, 2.0, 4.0)  # calls per request for which ways are known
CLASSES_MAX = 48  # (resources, rate, calls) for which ways are kept with prices; others are bounded without


@dataclass(frozen=True)
class Ranked:
    """Homes of an app's movable data: some of them, the best first, with a lower bound of J; and of all others together."""

    homes: tuple[Ints, ...]  # of all data
    least: tuple[float, ...]
    rest: float


@dataclass(frozen=True)
class Homes:
    """Homes of all data, and by how much the app's latency changes against those it was decided with."""

    homes: Ints
    change: float  # J


class Ways:
    """Shortest ways from metros through sites to homes at given prices, kept for each class of apps."""

    def __init__(self, columns: Columns, shadow: Floats) -> None:
        self._columns, self.shadow = columns, shadow
        self._kept: dict[tuple[bytes, float, float], NDArray[np.float32]] = {}

    def of(self, app: int, metros: Ints, calls: float) -> Floats:
        """[metros, S]: at least J per request that calls a home there `calls` times; instances by the request, no late term.

        Between two levels, cost is a mean of both, and so is its bound.
        """
        if calls >= CALL_LEVELS[-1]:
            return floats(self._level(app, CALL_LEVELS[-1])[metros])
        above = next(level for level in CALL_LEVELS if level > calls)
        below = max((level for level in CALL_LEVELS if level <= calls), default=0.0)
        part = (calls - below) / (above - below)
        least = floats(self._level(app, below)[metros]) if below else self._nearest(app)[metros][:, None]
        return (1.0 - part) * least + part * floats(self._level(app, above)[metros]) if part else least

    def _nearest(self, app: int) -> Floats:
        columns = self._columns
        return (columns.problem.weights.latency * columns.rtt + self.price(app)[:, None]).min(axis=0)

    def price(self, app: int) -> Floats:
        columns = self._columns
        return (columns.price + self.shadow) @ columns.reserve[app] / columns.rate[app]

    def _level(self, app: int, calls: float) -> NDArray[np.float32] | Floats:
        columns = self._columns
        key = (columns.reserve[app].tobytes(), float(columns.rate[app]), calls)
        if key not in self._kept:
            if len(self._kept) >= CLASSES_MAX:
                return columns.problem.weights.latency * min(1.0, calls) * columns.transit
            self._kept[key] = self._with(self.price(app), calls)
        return self._kept[key]

    def _with(self, price: Floats, calls: float) -> NDArray[np.float32]:
        columns = self._columns
        latency = columns.problem.weights.latency
        serve = ((latency * columns.rtt + price[:, None]) * (1.0 - SINGLE_SAFETY)).astype(np.float32)
        calling = (calls * latency * columns.site_rtt * (1.0 - SINGLE_SAFETY)).astype(np.float32)
        found = np.full((columns.rtt.shape[1], columns.sites), np.inf, dtype=np.float32)
        way = np.empty_like(found)
        for site in range(columns.sites):
            np.minimum(found, np.add(serve[site][:, None], calling[site][None, :], out=way), out=found)
        return found


def may_be_home(columns: Columns, data: int) -> Bools:
    """[S]: sites that are up and in the data's jurisdiction; where it is now always may."""
    item = columns.problem.data[data]
    allowed = columns.home_sites.copy()
    if item.jurisdiction is not None:
        allowed &= columns.in_jurisdiction(item.jurisdiction)
    allowed[columns.homes_now[data]] = True
    return allowed


def rank_homes(columns: Columns, app: int, homes: Ints, prices: Ways, until: float = np.inf) -> Ranked:
    """All homes of what the app calls and may move. What others call as well counts as moved for nothing: a lower bound.

    Homes that cost at least `until` are not looked at closer; without it, those that cost at least as much as the best so far.
    """
    loose, choosing = columns.loose[app], until == np.inf
    demand, rps = columns.problem.demand.of(app)
    metros = demand.astype(np.int64)
    if not len(loose) or not len(metros):
        return Ranked((homes,), (0.0,), np.inf)
    if len(loose) > 2:  # too many pairs: only the bound over each by itself
        calls = float(_calls(columns, app, loose).sum())
        least = float(_through(columns, app, (metros, rps), calls, prices)[0].min()) if columns.sites else 0.0
        return Ranked((homes,), (least,), least)
    table = _table(columns, app, (metros, rps), loose, prices)
    order = ranked(table, PRICED_MAX + 1)
    values = table.ravel()[order]
    rest = float(values[-1]) if len(order) > PRICED_MAX else np.inf
    tried: list[tuple[float, Ints]] = []
    for at, value in zip(order[:PRICED_MAX], values, strict=False):
        if value >= until:
            rest = min(rest, float(value))
            break
        there = homes.copy()
        there[loose] = (at,) if len(loose) == 1 else (at // columns.sites, at % columns.sites)
        moving = sum(float(_moving(columns, app, int(data))[there[data]]) for data in loose)
        priced = _priced(columns, app, there, prices.shadow) + moving
        tried.append((max(priced, float(value)), there))
        if choosing:
            until = min(until, priced)
    tried.sort(key=lambda entry: entry[0])
    return Ranked(tuple(there for _, there in tried), tuple(least for least, _ in tried), rest)


def _table(columns: Columns, app: int, demand: tuple[Ints, Floats], loose: Ints, ways: Ways) -> Floats:
    """[S] or [S, S]: a lower bound for each home of one, or each pair of homes of two."""
    calls = _calls(columns, app, loose)
    total = float(calls.sum())
    moving = [_moving(columns, app, int(data)) for data in loose]
    through, _ = _through(columns, app, demand, total, ways)
    filled = _filled(columns, app, float(demand[1].sum()), total, ways)
    if filled is not None:
        through = np.maximum(through, filled)
    if len(loose) == 1:
        return through + moving[0]
    share = calls / total if total else np.full(2, 0.5)
    table = share[0] * through[:, None] + share[1] * through[None, :]
    level = max((level for level in CALL_LEVELS if level <= total), default=0.0)
    if level:
        below, spare = _through(columns, app, demand, level, ways)
        apart = _apart(columns, calls * (1.0 - level / total), float(demand[1].sum()), spare)
        table = np.maximum(table, share[0] * below[:, None] + share[1] * below[None, :] + apart)
    return table + moving[0][:, None] + moving[1][None, :]


def _calls(columns: Columns, app: int, loose: Ints) -> Floats:
    found = {columns.data_index[call.data]: call.per_request for call in columns.problem.apps[app].calls}
    return np.array([found[int(data)] for data in loose], dtype=np.float64)


def _moving(columns: Columns, app: int, data: int) -> Floats:
    """[S]: J of the move there; infinite where it may not be."""
    price = columns.problem.weights.home * columns.problem.data[data].size_gib if data in columns.own[app] else 0.0
    cost = np.where(may_be_home(columns, data), price, np.inf)
    cost[columns.homes_now[data]] = 0.0
    return cost


def _through(columns: Columns, app: int, demand: tuple[Ints, Floats], calls: float, ways: Ways) -> tuple[Floats, float]:
    """[S]: at least what the app's requests cost with a home there; and by how much each may cost more and still be served."""
    metros, rps = demand
    asked = columns.problem.apps[app]
    least = ways.of(app, metros, calls)
    if asked.latency_objective_ms is not None:
        part = min(1.0, calls)
        serve = part * columns.transit[metros] + (1.0 - part) * columns.nearest_ms[metros][:, None]
        least = np.maximum(least, latency_cost(serve, asked.latency_objective_ms, asked.priority, columns.problem.weights))
    lost = unserved_cost(asked.priority, columns.problem.weights)
    spare = max(0.0, lost - float(least.max()))
    return rps @ np.minimum(least, lost) * (1.0 - SAFETY), spare


def _apart(columns: Columns, calls: Floats, rps: float, spare: float) -> Floats:
    """[S, S]: what two homes apart cost beyond the ways to each: `calls`, which the ways left over, cross between them.

    `spare`: J per request that even the dearest way may rise by before it were better not to serve.
    """
    far = columns.problem.weights.latency * float(calls.min()) * columns.between
    return rps * np.minimum(far, spare) * (1.0 - SAFETY)


def _filled(columns: Columns, app: int, rps: float, calls: float, ways: Ways) -> Floats | None:
    """[S]: at least what an app costs that is too large for one site: it fills those nearest to a home. None: it is not large."""
    asked = columns.problem.apps[app]
    room = np.where(columns.allowed[columns.policy_of[app]], columns.fits(app), 0) * columns.rate[app]
    if rps < LARGE * float(room.max(initial=0.0)):
        return None
    metros, _ = columns.problem.demand.of(app)
    serve = float(columns.nearest_ms[metros].min()) + calls * columns.site_rtt
    cost = latency_cost(serve, asked.latency_objective_ms, asked.priority, columns.problem.weights) + ways.price(app)[:, None]
    lost = unserved_cost(asked.priority, columns.problem.weights)
    order = np.argsort(cost, axis=0, kind="stable")
    dear = np.minimum(np.take_along_axis(cost, order, axis=0), lost)
    before = np.cumsum(room[order], axis=0) - room[order]
    amount = np.clip(rps - before, 0.0, room[order])
    left = np.maximum(0.0, rps - amount.sum(axis=0))
    return ((amount * dear).sum(axis=0) + left * lost) * (1.0 - SAFETY)


def _priced(columns: Columns, app: int, homes: Ints, shadow: Floats) -> float:
    """What the app costs at least with these homes, instances by the request."""
    asked = columns.problem.apps[app]
    metros, rps = columns.problem.demand.of(app)
    weights = columns.problem.weights
    allowed = np.flatnonzero(columns.allowed[columns.policy_of[app]])
    price = ((columns.price + shadow) @ columns.reserve[app])[allowed] / columns.rate[app]
    serve = columns.rtt[np.ix_(allowed, metros)] + columns.data_ms(app, homes)[allowed][:, None]
    cost = latency_cost(serve, asked.latency_objective_ms, asked.priority, weights) + price[:, None]
    lost = unserved_cost(asked.priority, weights)
    least = np.minimum(cost.min(axis=0), lost) if len(allowed) else np.full(len(rps), lost)
    return float(rps @ least) * (1.0 - SAFETY)


def improved_homes(columns: Columns, app: int, homes: Ints, desk: Desk, state: State) -> Homes:
    """The best home of each of the app's own data for the flows as they are."""
    own = columns.own[app]
    if not len(own) or not len(state.pieces.site):
        return Homes(homes, 0.0)
    site, metro = desk.columns[state.sites[state.pieces.site]], desk.rows[state.pieces.metro]
    rps = state.pieces.rps
    before = serve = desk.ask.serve_ms[metro, site]
    found = homes.copy()
    for data, call in zip(own, _calls(columns, app, own), strict=True):
        tried = np.flatnonzero(may_be_home(columns, int(data)))
        others = serve - call * columns.site_rtt[site, found[data]]
        served = others[:, None] + call * columns.site_rtt[np.ix_(site, tried)]
        cost = rps @ latency_cost(served, desk.ask.latency_objective_ms, desk.ask.priority, desk.ask.weights)
        cost = floats(cost) + _moving(columns, app, int(data))[tried]
        best, at = int(cost.argmin()), int(np.flatnonzero(tried == found[data])[0])
        if cost[best] < cost[at] - 1e-9 * (1.0 + abs(float(cost[at]))):
            found[data], serve = tried[best], served[:, best]
    if np.array_equal(found, homes):
        return Homes(homes, 0.0)
    change = desk.ask.weights.latency * float(rps @ (serve - before))
    limit = desk.ask.latency_objective_ms
    if limit is not None:
        over = np.maximum(0.0, serve - limit) - np.maximum(0.0, before - limit)
        change += late_weight(desk.ask.priority, desk.ask.weights) * float(rps @ over)
    return Homes(found, change)


def shared_homes(columns: Columns, flows: tuple[Ints, Ints, Floats], homes: Ints, shared: Sequence[int]) -> Ints:
    """The best home of data that several apps call, for the flows (app, site, rps) as they are; the late term apart."""
    app, site, rps = flows
    found = homes.copy()
    callers, called, calls = columns.calls
    weights = columns.problem.weights
    for data in shared:
        weight = np.zeros(columns.apps)
        weight[callers[called == data]] = calls[called == data]
        load = np.zeros(columns.sites)
        np.add.at(load, site, rps * weight[app])
        cost = weights.latency * (load @ columns.site_rtt)
        cost = cost + np.where(may_be_home(columns, data), weights.home * columns.problem.data[data].size_gib, np.inf)
        cost[columns.homes_now[data]] -= weights.home * columns.problem.data[data].size_gib
        found[data] = upto(columns.sites)[int(cost.argmin())]
    return found
