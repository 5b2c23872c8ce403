"""Apps so large that where their data has its home moves everybody's prices: their bound home by home, at several prices.

At any prices λ, J ≥ c(λ) + Σ b(λ, app, home) over these apps: c is what all others cost at least, less what sites have at λ. So

    J ≥ least over their homes of  (most over λ of  c(λ) + Σ b(λ, app, home))

and every choice of homes has prices that tell most about it. "Home" is that of the data an app calls most; others are anywhere.
b counts instances by the request, and what one app may run at a site at most, at prices of its own, as for any μ ≥ 0

    b = Σ_metro demand · min(lost, least over s of cost(s) + μ(s)) − Σ_s μ(s) · most(s)
    μ(s) = max(0, level − what a request costs at s, its users' way apart)

so that the sites beside a home cost as much as the first one that still has room.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from skerry.core.placement.solve.arrays import floats, ranked, upto
from skerry.core.placement.solve.ask import Ints
from skerry.core.placement.solve.bound import SAFETY, price_floor
from skerry.core.placement.solve.columns import Columns
from skerry.core.placement.solve.homes import Requests, costs_of_data, home_costs, moving_cost
from skerry.core.types.problem import Bools, Floats

FILLED = (0.5, 1.0, 1.5)  # levels that are tried: of as many sites as the app would fill, so many times
ALONE = 64  # homes of the data it calls most that are looked at closely, the others at no distance
LOOKED_AT = 4  # homes of an app that are looked at closely together
FRONT_MAX = 4_000  # choices of homes that are held against each other


class HomeTable:
    """b of one app by home [S]: where it matters as said above, elsewhere less."""

    def __init__(self, columns: Columns, app: int, homes: Ints, shadow: Floats, constant: float) -> None:
        """`homes`: of all data; tangents are nearest there. `constant`: at least what instances cost beyond their requests."""
        self._columns, self._app, self._homes, self._constant = columns, app, homes, constant
        data = columns.loose[app]
        calls = columns.calls_of(app, data)
        first = _most_called(data, calls)
        self._ask = columns.ask_for_homes(app, homes, shadow)
        self._first, self._others = int(data[first]), np.delete(data, first)
        self._calls, self._calls_first = float(calls.sum()), float(calls[first])
        self._requests = Requests(columns, app, self._ask, calls.sum(keepdims=True), np.zeros(columns.sites))
        ask = self._ask
        most = ask.room if ask.max_site is None else np.minimum(ask.room, ask.max_site)
        most = most if ask.max_total is None else np.minimum(most, ask.max_total)
        self._most = floats(np.where(most >= max(1, ask.min_site), most, 0) * ask.rps_per_instance)
        self._price = price_floor(floats(ask.price + ask.shadow), ask.now, ask.weights.move) / ask.rps_per_instance
        found = home_costs(columns, app, ask, homes)
        rest = found.least.min(axis=1).sum() - found.least[first].min()
        self.least = self._surely(floats(found.least[first] + rest))
        if len(data) > 1:
            self.at_least(self._surely(self._first_alone(data[first : first + 1])))
        self.level = np.zeros(columns.sites)
        self.exact: Bools = ~np.isfinite(self.least)  # where nothing more is to be found out

    def looked_at(self) -> list[int]:
        """Homes of which `level` tells."""
        return [int(home) for home in np.flatnonzero(self.exact & np.isfinite(self.least))]

    def look_at(self, home: int) -> None:
        """Closely."""
        if self.exact[home]:
            return
        self.exact[home] = True
        moved = float(moving_cost(self._columns, self._first)[home])
        beside = self._beside(home)
        for level in (0.0, *self._levels(beside)):
            extra = np.where(self._most > 0.0, np.maximum(0.0, level - beside), 0.0)
            found = float(self._surely(np.array([self._raised(home, extra) - float(extra @ self._most) + moved]))[0])
            if found > self.least[home]:
                self.least[home], self.level[home] = found, level

    def at_least(self, value: float | Floats) -> None:
        """Something else proves so much, wherever its home is."""
        self.least = np.maximum(self.least, value)

    def _first_alone(self, first: Ints) -> Floats:
        """[S]: with its other data at no distance."""
        requests = Requests(self._columns, self._app, self._ask, np.array([self._calls_first]), np.zeros(self._columns.sites))
        cost = requests.bounds()
        some = ranked(cost, ALONE)
        cost[some] = requests.exactly(some)
        return cost + moving_cost(self._columns, int(first[0]))

    def _raised(self, home: int, extra: Floats) -> float:
        """What its requests cost, at `extra` [S] more each."""
        if not len(self._others):
            return float(self._requests.raised(extra).exactly(np.array([home]))[0])
        to_first = self._calls_first * self._columns.site_rtt[:, home]
        ask = replace(self._ask, serve_ms=self._ask.serve_ms + to_first)
        others = costs_of_data(self._columns, self._app, ask, self._homes, self._others, extra=extra)
        return float(others.least.min(axis=1).sum())

    def _beside(self, home: int) -> Floats:
        return self._ask.weights.latency * self._calls * self._columns.site_rtt[:, home] + self._price

    def _levels(self, beside: Floats) -> list[float]:
        """What a request costs at the last of so many sites, the cheapest first."""
        order = ranked(np.where(self._most > 0.0, beside, np.inf))
        order = order[self._most[order] > 0.0]
        filled = int(np.searchsorted(np.cumsum(self._most[order]), float(self._ask.demand.sum())))
        return sorted({float(beside[order[min(len(order) - 1, int(part * filled))]]) for part in FILLED}) if len(order) else []

    def _surely(self, least: Floats) -> Floats:
        total = least + self._constant
        sure = np.where(np.isfinite(total), total, 0.0)
        return floats(np.where(np.isfinite(total), sure - SAFETY * np.abs(sure), np.inf))


def first_home(columns: Columns, app: int, homes: Ints) -> int:
    """Of the data an app calls most."""
    data = columns.loose[app]
    return int(homes[data[_most_called(data, columns.calls_of(app, data))]])


def _most_called(data: Ints, calls: Floats) -> int:
    """Its position; of several the first by id."""
    return int(np.lexsort((data, -calls))[0])


@dataclass(frozen=True)
class Chosen:
    """The least over all homes, and the homes [apps] it is reached with."""

    value: float
    homes: tuple[int, ...]


def least_of_most(constants: Floats, tables: Sequence[Floats]) -> Chosen:
    """The least, over a home for each of the tables [prices, S], of the most over prices of constant and homes' values."""
    rest = np.cumsum([np.zeros_like(constants), *(table.min(axis=1) for table in reversed(tables))], axis=0)[::-1]
    ceiling = _some(constants, tables)
    highest = ceiling.value + 1e-9 * abs(ceiling.value)  # sums in another order differ in their last digits
    front, homes = constants[None, :], np.zeros((1, 0), dtype=np.int64)
    for at, table in enumerate(tables):
        if len(front) > FRONT_MAX:
            return Chosen(float((front + rest[at]).max(axis=1).min()), ceiling.homes)
        kept = _undominated(table.T)
        total = (front[:, None, :] + table.T[kept][None, :, :]).reshape(-1, len(constants))
        parents, home = np.repeat(upto(len(front)), len(kept)), np.tile(kept, len(front))
        some = np.flatnonzero((total + rest[at + 1]).max(axis=1) <= highest)
        some = some[_undominated(total[some])] if len(some) <= FRONT_MAX else some
        front, homes = total[some], np.concatenate((homes[parents[some]], home[some][:, None]), axis=1)
    best = int(front.max(axis=1).argmin())
    return Chosen(float(front[best].max()), tuple(homes[best].tolist()))


def _some(constants: Floats, tables: Sequence[Floats]) -> Chosen:
    """A choice that is good at one of the prices: the least is not above it."""
    found: list[Chosen] = []
    for at in range(len(constants)):
        homes = [int(table[at].argmin()) for table in tables]
        value = constants + sum((table[:, home] for table, home in zip(tables, homes, strict=True)), np.zeros_like(constants))
        found.append(Chosen(float(value.max()), tuple(homes)))
    return min(found, key=lambda one: one.value)


def _undominated(points: Floats) -> Ints:
    """Rows that no other row is below in everything; of equal ones the first."""
    order = np.lexsort((*points.T[::-1], points.sum(axis=1)))
    kept: list[int] = []
    front = np.zeros((0, points.shape[1]))
    for at in order.tolist():
        if not len(front) or not bool((front <= points[at]).all(axis=1).any()):
            kept.append(at)
            front = np.concatenate((front, points[at][None, :]))
    return np.array(sorted(kept), dtype=np.int64)
