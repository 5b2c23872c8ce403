"""Where movable data has its home: decided together with the code that calls it, and bounded over all homes at once.

A request from m that is served at s costs φ(t) + p / r, where t = RTT(m, s) + Σ k · RTT(s, home), φ is latency and lateness, and
p / r an instance by the request. With K = Σ k of an app's movable data, data i gets the part k_i / K of a request and of its t:
since φ is linear or has a linear bound, and the least of a sum is at least the sum of the leasts,

    J of the app ≥ Σ_i least over homes h of  k_i / K · X(h) + moving i to h
    X(h) = Σ_metro demand · min(lost, least over s of  φ(RTT(m, s) + fixed calls + K · RTT(s, h)) + p / r)

For several data φ is a tangent of itself: late for those metros that are late however they are served, in time for the others.
Data that several apps call counts its move in equal parts with each of them.
"""

from dataclasses import dataclass

import numpy as np

from skerry.core.placement.solve.arrays import floats, upto
from skerry.core.placement.solve.ask import Ask, Ints, late_weight, latency_cost, unserved_cost
from skerry.core.placement.solve.bound import SAFETY, price_floor
from skerry.core.placement.solve.columns import Columns
from skerry.core.placement.solve.desk import Desk, State
from skerry.core.types.problem import Bools, Floats


@dataclass(frozen=True)
class HomeCosts:
    """Of the data an app calls and may move: [data, S], at least what its part of the app costs with its home there."""

    data: Ints
    least: Floats

    def total_but(self, homes: Ints) -> float:
        """At least what the app costs, wherever its homes are but for one choice of them [data]."""
        least = self.least.min(axis=1)
        others = self.least.copy()
        others[upto(len(homes)), homes] = np.inf
        return float((least.sum() - least + others.min(axis=1)).min())


@dataclass(frozen=True)
class Homes:
    """Homes of all data, and by how much the app's latency changes against those it was decided with."""

    homes: Ints
    change: float  # J


def best_homes(columns: Columns, app: int, homes: Ints, shadow: Floats) -> Ints:
    """[own data of the app]: where each by itself is best, of the sites where it may be now."""
    own = columns.own[app]
    if not columns.home_sites.any():
        return homes[own]
    costs = home_costs(columns, app, columns.ask_for_homes(app, homes, shadow))
    allowed = np.stack([may_be_home(columns, int(data)) for data in own])
    return np.asarray(np.where(allowed, costs.least, np.inf).argmin(axis=1), dtype=np.int64)


def home_costs(columns: Columns, app: int, ask: Ask, count_price: float = 0.0) -> HomeCosts:
    """`ask`: the app's question with its movable data at no distance. `count_price`: what every instance costs more."""
    data = columns.loose[app]
    calls = columns.calls_of(app, data)
    total = float(calls.sum())
    allowed = np.flatnonzero(ask.room >= max(1, ask.min_site))
    part = calls / total if total > 0.0 else np.full(len(data), 1.0 / len(data))
    found = _request_totals(ask, allowed, total * columns.site_rtt, several=len(data) > 1, count_price=count_price)
    return HomeCosts(
        data, np.stack([share * found + moving_cost(columns, int(at)) for share, at in zip(part, data, strict=True)])
    )


def _request_totals(ask: Ask, allowed: Ints, data_ms: Floats, *, several: bool, count_price: float) -> Floats:
    """X [S]. `data_ms` [S, S]: of all calls of a request, from a site to a home."""
    weights, lost = ask.weights, unserved_cost(ask.priority, ask.weights)
    rows = np.flatnonzero(ask.demand > 0.0)
    price = price_floor(floats(ask.price + ask.shadow + count_price), ask.now, weights.move) / ask.rps_per_instance
    limit = ask.latency_objective_ms if len(allowed) else None
    serve = np.ascontiguousarray(ask.serve_ms[np.ix_(rows, allowed)].T)  # [allowed, rows]
    calls = np.ascontiguousarray(data_ms[allowed])
    if limit is None:
        least = _least(weights.latency * serve + price[allowed, None], weights.latency * calls, lost)
    elif several:
        late = serve.min(axis=0) >= limit
        dear = late_weight(ask.priority, weights)
        least = np.empty((len(rows), data_ms.shape[1]))
        for some, slope, floor in ((~late, weights.latency, 0.0), (late, weights.latency + dear, dear * limit)):
            base = slope * serve[:, some] + (price[allowed, None] - floor)
            least[some] = _least(base, slope * calls, lost)
    else:
        least = _least_late(serve, calls, price[allowed], (weights.latency, late_weight(ask.priority, weights), limit), lost)
    return floats((ask.demand[rows] @ least) * (1.0 - SAFETY))


def _least(base: Floats, calls: Floats, lost: float) -> Floats:
    """[rows, homes]: the least over sites of base[site, row] + calls[site, home], at most `lost`."""
    least = np.full((base.shape[1], calls.shape[1]), lost)
    cost = np.empty_like(least)
    for site in range(len(base)):
        np.add(base[site][:, None], calls[site], out=cost)
        np.minimum(least, cost, out=least)
    return least


def _least_late(serve: Floats, calls: Floats, price: Floats, slopes: tuple[float, float, float], lost: float) -> Floats:
    """As `_least`, of latency · t + late · max(0, t − limit) + price, where t = serve + calls."""
    latency, late, limit = slopes
    least = np.full((serve.shape[1], calls.shape[1]), lost)
    ms, over = np.empty_like(least), np.empty_like(least)
    for site in range(len(serve)):
        np.add(serve[site][:, None], calls[site], out=ms)
        np.subtract(ms, limit, out=over)
        np.maximum(over, 0.0, out=over)
        over *= late
        ms *= latency
        ms += over
        ms += price[site]
        np.minimum(least, ms, out=least)
    return least


def may_be_home(columns: Columns, data: int, *, up: bool = True) -> Bools:
    """[S]: sites in the data's jurisdiction, and of those that are up; where it is now always may."""
    item = columns.problem.data[data]
    allowed = columns.home_sites.copy() if up else np.ones(columns.sites, dtype=np.bool_)
    if item.jurisdiction is not None:
        allowed &= columns.in_jurisdiction(item.jurisdiction)
    allowed[columns.homes_now[data]] = True
    return allowed


def moving_cost(columns: Columns, data: int) -> Floats:
    """[S]: J of the move there, in equal parts with all apps that call it; infinite where it may not be at all."""
    price = columns.problem.weights.home * columns.problem.data[data].size_gib / max(1, int(columns.callers[data]))
    cost = np.where(may_be_home(columns, data, up=False), price, np.inf)
    cost[columns.homes_now[data]] = 0.0
    return cost


def improved_homes(columns: Columns, app: int, homes: Ints, desk: Desk, state: State) -> Homes:
    """The best home of each of the app's own data for the flows as they are."""
    own = columns.own[app]
    if not len(own) or not len(state.pieces.site):
        return Homes(homes, 0.0)
    site, metro = desk.columns[state.sites[state.pieces.site]], desk.rows[state.pieces.metro]
    rps = state.pieces.rps
    before = serve = desk.ask.serve_ms[metro, site]
    found = homes.copy()
    for data, call in zip(own, columns.calls_of(app, own), strict=True):
        tried = np.flatnonzero(may_be_home(columns, int(data)))
        others = serve - call * columns.site_rtt[site, found[data]]
        served = others[:, None] + call * columns.site_rtt[np.ix_(site, tried)]
        cost = rps @ latency_cost(served, desk.ask.latency_objective_ms, desk.ask.priority, desk.ask.weights)
        cost = floats(cost) + moving_cost(columns, int(data))[tried]
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
