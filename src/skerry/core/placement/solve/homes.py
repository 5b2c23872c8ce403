"""Where movable data has its home: decided together with the code that calls it, and bounded over all homes at once.

A request from m that is served at s costs φ(t) + p / r, where t = RTT(m, s) + Σ k · RTT(s, home), φ is latency and lateness, and
p / r an instance by the request. With K = Σ k of an app's movable data, data i gets the part k_i / K of a request and of its t:
since φ is linear or has a linear bound, and the least of a sum is at least the sum of the leasts,

    J of the app ≥ Σ_i least over homes h of  k_i / K · X(h) + moving i to h
    X(h) = Σ_metro demand · min(lost, least over s of  φ(RTT(m, s) + fixed calls + K · RTT(s, h)) + p / r)

For several data φ is a tangent of itself: late for some metros, in time for the others. The better of two: late are those that
are so however they are served, or those that are so with the data where it was found to be.
Data that several apps call counts its move in equal parts with each of them.
"""

from copy import copy
from dataclasses import dataclass, replace

import numpy as np

from skerry.core.placement.solve.arrays import floats, ranked, upto
from skerry.core.placement.solve.ask import Ask, Ints, late_weight, latency_cost, unserved_cost
from skerry.core.placement.solve.bound import price_floor
from skerry.core.placement.solve.columns import Columns
from skerry.core.placement.solve.costs import SINGLE, Small
from skerry.core.placement.solve.desk import Desk, State
from skerry.core.types.problem import Bools, Floats

LOOKED_AT = 8  # homes that are looked at closely together


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
    costs = home_costs(columns, app, columns.ask_for_homes(app, homes, shadow), homes)
    allowed = np.stack([may_be_home(columns, int(data)) for data in own])
    return np.asarray(np.where(allowed, costs.least, np.inf).argmin(axis=1), dtype=np.int64)


def home_costs(columns: Columns, app: int, ask: Ask, homes: Ints, count_price: float = 0.0) -> HomeCosts:
    """`ask`: the app's question with its movable data at no distance. `count_price`: what every instance costs more.
    `homes`: of all data; the tangents are nearest there.

    Exact where it is least; elsewhere at most what it costs.
    """
    return costs_of_data(columns, app, ask, homes, columns.loose[app], count_price=count_price)


def costs_of_data(
    columns: Columns, app: int, ask: Ask, homes: Ints, data: Ints, *, count_price: float = 0.0, extra: Floats | None = None
) -> HomeCosts:
    """As `home_costs`, of some of its data; the question counts the calls of all others. `extra` [S]: J per request more."""
    calls = columns.calls_of(app, data)
    asked = replace(ask, price=floats(ask.price + count_price))
    nowhere, said = np.zeros(columns.sites), np.zeros(columns.sites)
    for at, call in zip(data, calls, strict=True):
        said += call * columns.site_rtt[:, homes[at]]
    moves = np.stack([moving_cost(columns, int(at)) for at in data])
    straight = len(data) > 1 and ask.latency_objective_ms is not None
    found = [
        least_by_home(Requests(columns, app, asked, calls, near).raised(extra), moves)
        for near in ((nowhere, said) if straight else (nowhere,))
    ]
    best = int(np.argmax([costs.min(axis=1).sum() for costs in found]))
    return HomeCosts(data, found[best])


def least_by_home(asked: "Requests", moves: Floats) -> Floats:
    """[data, S]: what each datum's part costs with its home there, moved there; exact where that is least, elsewhere at most."""
    found, exact = asked.bounds(), np.zeros(moves.shape[1], dtype=np.bool_)
    for _ in range(moves.shape[1]):
        costs = asked.part[:, None] * found + moves
        best = np.where(exact, costs, np.inf).min(axis=1, initial=np.inf)
        rest = np.flatnonzero(((costs < best[:, None]) & ~exact).any(axis=0))
        if not len(rest):
            break
        some = rest[ranked(costs[:, rest].min(axis=0), LOOKED_AT)]
        found[some] = asked.exactly(some)
        exact[some] = True
    return asked.part[:, None] * found + moves


class Requests:
    """X of one app.

    A way over s to the home is at least the shortest over any site: with K ≥ 1, RTT(m, s) + K · RTT(s, h) is at least
    shortest(m, h) + (K − 1) · RTT(s, h), and with K < 1 at least K · shortest(m, h) + (1 − K) · RTT(m, s); so that most homes
    need no look at every site.
    """

    def __init__(self, columns: Columns, app: int, ask: Ask, calls: Floats, near: Floats) -> None:
        weights, several, total = ask.weights, len(calls) > 1, float(calls.sum())
        self.part = calls / total if total > 0.0 else np.full(len(calls), 1.0 / len(calls))
        rows = np.flatnonzero(ask.demand > 0.0)
        allowed = np.flatnonzero(ask.room >= max(1, ask.min_site))
        price = price_floor(floats(ask.price + ask.shadow), ask.now, weights.move) / ask.rps_per_instance
        self._rps, self._lost, self._calls, self._weights = ask.demand[rows], unserved_cost(ask.priority, weights), total, weights
        self._sites, self._between = allowed, columns.site_rtt_single
        self._price = price[allowed]
        self._serve = ask.serve_ms[np.ix_(rows, allowed)]
        metros = columns.problem.demand.of(app)[0].astype(np.int64)[rows]
        self._metros, self._rtt, self._shortest = metros, columns.rtt.T[np.ix_(metros, allowed)], columns.shortest
        self._late = np.zeros(len(rows))  # J per rps·ms beyond the limit
        self._limit = 0.0
        self._straight = several  # lateness by its tangent
        if ask.latency_objective_ms is not None and len(allowed):
            late = late_weight(ask.priority, weights)
            surely = (self._serve + near[allowed]).min(axis=1, initial=np.inf) >= ask.latency_objective_ms
            self._limit = ask.latency_objective_ms
            self._late = np.where(surely | (not several), late, 0.0)

    def raised(self, extra: Floats | None) -> "Requests":
        """With so much more J per request at each of all sites [S]."""
        if extra is None:
            return self
        found = copy(self)
        found._price = self._price + extra[self._sites]
        return found

    def bounds(self) -> Floats:
        """[S]: at most X."""
        if not len(self._sites) or not len(self._rps):
            return np.full(len(self._between), self._lost * float(self._rps.sum()))
        calls, latency = np.float32(self._calls), np.float32(self._weights.latency)
        shortest = self._shortest[self._metros]
        stays = (self._serve - self._rtt).astype(np.float32)  # of data that does not move
        price = self._price.astype(np.float32)
        if calls >= 1.0:
            near = latency * stays[0] + price if len(stays) else price
            rest = (latency * (calls - np.float32(1.0)) * self._between[self._sites] + near[:, None]).min(axis=0)
            ms, cost = shortest, latency * shortest + rest
        else:
            near = latency * ((np.float32(1.0) - calls) * self._rtt.astype(np.float32) + stays) + price
            ms, cost = calls * shortest, latency * calls * shortest + near.min(axis=1)[:, None]
        if self._late.any():
            over = ms - np.float32(self._limit)
            cost = cost + self._late.astype(np.float32)[:, None] * (over if self._straight else np.maximum(over, np.float32(0.0)))
        return self._surely(floats(np.minimum(cost, np.float32(self._lost))))

    def _surely(self, least: Floats) -> Floats:
        """[S]: of each row's least [rows, S], but for what single precision may err by: that much less."""
        size = np.abs(least) + float(np.abs(self._late).max(initial=0.0)) * self._limit
        return floats(self._rps @ (least - SINGLE * size))

    def exactly(self, homes: Ints) -> Floats:
        """[homes]: X, but for what single precision may err by: that much less."""
        if not len(self._sites) or not len(self._rps):
            return np.full(len(homes), self._lost * float(self._rps.sum()))
        latency = self._weights.latency
        away = (np.float32(self._calls) * self._between.T[np.ix_(homes, self._sites)])[:, None, :]  # [homes, 1, sites]
        if self._straight or not self._late.any():
            least = self._on_lines(latency + self._late, away)
        else:
            late = float(self._late[0])
            cost = self._along(latency, 0.0) + np.float32(latency) * away  # [homes, rows, sites]
            np.maximum(cost, self._along(latency + late, late * self._limit) + np.float32(latency + late) * away, out=cost)
            least = floats(cost.min(axis=2))
        return self._surely(np.minimum(least, self._lost).T)

    def _on_lines(self, slope: Floats, away: Small) -> Floats:
        """[homes, rows]: each row's least, its cost being a straight line of the ms; `slope` [rows] in J per rps·ms."""
        slope = np.maximum(slope, 1e-12)
        start = (self._price - (self._late * self._limit)[:, None]) / slope[:, None]
        return floats(((self._serve + start).astype(np.float32) + away).min(axis=2)) * slope

    def _along(self, slope: float, less: float) -> Small:
        """[rows, sites]: a line of the ms without data calls, at each site's price."""
        return (slope * self._serve + (self._price - less)).astype(np.float32)


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
        may = may_be_home(columns, int(data))
        may[found[data]] = True
        tried = np.flatnonzero(may)
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


def home_prices(columns: Columns, app: int) -> Floats:
    """[S]: J of moving all of the app's own data there; infinite where some of it may not be now."""
    price = np.zeros(columns.sites)
    for data in columns.own[app]:
        moved = moving_cost(columns, int(data))
        price += np.where(may_be_home(columns, int(data)), moved, np.inf)
    return price
