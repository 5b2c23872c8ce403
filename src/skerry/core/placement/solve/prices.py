"""What resources are worth at each site, and where data has its home, all apps together.

the crowd's prices, softer first ─► homes of data that is called seldom, and of data that several call ─► the crowd again
                     ─► apps, and groups that share data, so large that their homes move everybody's prices: each home tried
                     ─► prices that prove ─► everybody's home in whole ─► prices to decide at
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from skerry.core.placement.solve.arrays import floats, ranked, sums
from skerry.core.placement.solve.ask import Ints, latency_cost
from skerry.core.placement.solve.bound import price_floor
from skerry.core.placement.solve.columns import KINDS, NO_OBJECTIVE_MS, Columns
from skerry.core.placement.solve.costs import Costs, calls_per_request
from skerry.core.placement.solve.crowd import Crowd, crowd_of, drawn_by_data, fewer, made, movable, rows_of
from skerry.core.placement.solve.equilibrium import Rows, joined, settled
from skerry.core.placement.solve.homes import best_homes, home_prices
from skerry.core.placement.solve.plan import pair_apps
from skerry.core.placement.solve.shared import Group, descended, groups_of, homes_of_groups, moves_of, together
from skerry.core.placement.solve.spread import Spread
from skerry.core.types.problem import Bools, Floats

FROM_NOTHING_MS = ((30.0, 3), (20.0, 2), (12.0, 2), (8.0, 2), (5.0, 3))  # softness in ms, and steps there
FINER_MS = ((4.0, 3), (2.5, 3), (1.6, 3), (1.0, 3), (0.6, 3))
AGAIN_MS = ((4.0, 2), (2.0, 3), (1.0, 3), (0.5, 4))
LAST_MS = ((2.0, 2), (1.0, 3), (0.5, 4))
TRIED_MS = ((12.0, 2), (6.0, 2), (3.0, 3))
ELSEWHERE_MS = ((4.0, 2), (1.0, 3), (0.5, 3))
ELSEWHERE_ROWS = (1_500, 2_500)
COARSE_ROWS = (2_500, 2_500)
FINER_ROWS = (4_000, 3_000)
TRIED_ROWS = (900, 1_300)  # the largest, and those that stand for the others
SOFT_MS = 0.5  # at which everybody is decided
FULL = 0.998  # of a site's capacity is sold: whole instances seldom fill the rest
PART = 64  # apps whose homes are looked for together


@dataclass(frozen=True)
class Giants:
    """Which apps are tried home by home: by what they ask for, and by how often they call their data for it."""

    most: int = 8
    share: float = 0.005  # of all that is asked of a kind, times calls per request, at least
    homes: int = 2  # that are tried,
    homes_most: int = 8  # or so many in a small world,
    sites: int = 700  # where homes times sites are no more than this
    groups: int = 4  # of apps that share data, at most

    def tried(self, columns: Columns) -> int:
        """Homes of each."""
        return max(self.homes, min(self.homes_most, self.sites // columns.sites))


@dataclass(frozen=True)
class Priced:
    """Prices that prove, prices to decide at, and the homes that go with them."""

    proving: Floats
    shadow: Floats
    homes: Ints
    elsewhere: "Elsewhere"


@dataclass(frozen=True)
class Elsewhere:
    """The prices there would be with the homes of the largest apps at other places."""

    large: "_Large"
    others: Rows
    homes: Ints
    proving: Floats

    @property
    def apps(self) -> Ints:
        """The largest, whose data is theirs to move."""
        return self.large.apps

    def at(self, homes: Sequence[Sequence[int]]) -> Floats:
        """Homes of each of `apps`, for all its data; of an app with several an equal part has each."""
        columns, parts = self.large.columns, [self.others]
        for app, several in zip(self.apps.tolist(), homes, strict=True):
            for home in several:
                found = self.homes.copy()
                found[columns.own[app]] = home
                rows = _exact_rows(columns, app, found)
                parts.append(replace(rows, rps=rows.rps / len(several)))
        rows = joined(parts, columns.sites)
        return settled(rows, columns.capacity * FULL, self.proving, _soft(columns, ELSEWHERE_MS)).price


def shadow_prices(columns: Columns, giants: Giants, spread: Spread) -> Priced:
    """All of it; deterministic."""
    have, fixed = columns.capacity * FULL, np.zeros(columns.apps, dtype=np.bool_)
    large = _Large.of(columns, _giants(columns, giants))
    crowd, drawn = crowd_of(columns, large.apps), drawn_by_data(columns)
    homes, groups = columns.homes_now, groups_of(columns)
    rows = large.beside(fewer(rows_of(columns, crowd, homes, settled=fixed), *COARSE_ROWS), homes, fixed)
    price = settled(rows, have, np.zeros((columns.sites, KINDS)), _soft(columns, FROM_NOTHING_MS)).price
    homes = _homes_at(columns, np.flatnonzero(movable(columns) & ~drawn), homes, price, spread)
    homes = homes_of_groups(columns, groups, homes, price, spread)
    others = rows_of(columns, crowd, homes, settled=fixed)
    rows = large.beside(fewer(others, *FINER_ROWS), homes, fixed)
    price = settled(rows, have, price, _soft(columns, FINER_MS)).price
    some = fewer(others, *TRIED_ROWS)
    for app in large.apps.tolist():
        trial = _Trial(columns, app, large.but(app).beside(some, homes, fixed), homes, price)
        homes, price = trial.best(giants, spread)
        fixed[app] = True
    tried = _large_groups(columns, groups, giants)
    for group in (groups[at] for at in tried):
        homes, price = _GroupTrial.of(columns, group, (large, homes, fixed), price).best(giants, spread)
    if tried:
        others = rows_of(columns, crowd, homes, settled=fixed)
    proving = settled(large.beside(others, homes, fixed), have, price, _soft(columns, AGAIN_MS)).price
    elsewhere = Elsewhere(large, fewer(others, *ELSEWHERE_ROWS), homes, proving)
    homes = _homes_at(columns, np.flatnonzero(drawn & ~fixed), homes, proving, spread)
    homes = homes_of_groups(columns, [group for at, group in enumerate(groups) if at not in tried], homes, proving, spread)
    stay = np.ones_like(fixed)
    others = rows_of(columns, crowd, homes, settled=stay)
    price = settled(large.beside(others, homes, stay), have, proving, _soft(columns, LAST_MS)).price
    return Priced(proving, price, homes, elsewhere)


def _soft(columns: Columns, ms: Sequence[tuple[float, int]]) -> list[tuple[float, int]]:
    return [(soft * max(columns.problem.weights.latency, 1e-9), steps) for soft, steps in ms]


def soft_of(columns: Columns) -> float:
    """J per rps at which everybody is decided."""
    return SOFT_MS * max(columns.problem.weights.latency, 1e-9)


def _units(columns: Columns) -> Floats:
    """[A, KINDS]: what all requests of each app take."""
    rps = sums(pair_apps(columns), columns.problem.demand.rps, columns.apps)
    return floats(columns.reserve / columns.rate[:, None] * rps[:, None])


def _giants(columns: Columns, giants: Giants) -> Ints:
    """The largest apps that are drawn by data that is theirs to move, the largest first."""
    units = _units(columns)
    share = (units / np.maximum(units.sum(axis=0), 1e-300)).max(axis=1, initial=0.0) * calls_per_request(columns)
    share = np.where(drawn_by_data(columns), share, 0.0)
    some = ranked(-share, giants.most)
    return some[share[some] >= giants.share]


@dataclass(frozen=True)
class _Large:
    """The largest apps, beside all others. `along`: of each one row, with a home somewhere."""

    columns: Columns
    apps: Ints
    along: Rows

    @staticmethod
    def of(columns: Columns, apps: Ints) -> "_Large":
        total = np.array([float(columns.problem.demand.of(int(app))[1].sum()) for app in apps])
        alone = Crowd(apps, np.full(len(apps), -1, dtype=np.int64), total)
        return _Large(columns, apps, rows_of(columns, alone, columns.homes_now, settled=np.zeros(columns.apps, dtype=np.bool_)))

    def but(self, app: int) -> "_Large":
        some = np.flatnonzero(self.apps != app)
        return _Large(self.columns, self.apps[some], self.along.at(some))

    def beside(self, others: Rows, homes: Ints, fixed: Bools) -> Rows:
        """Of a large app whose home is fixed all its metros."""
        moves = np.flatnonzero(~fixed[self.apps])
        stay = [_exact_rows(self.columns, int(app), homes) for app in self.apps[fixed[self.apps]]]
        return joined([others, self.along.at(moves), *stay], self.columns.sites)


def _exact_rows(columns: Columns, app: int, homes: Ints) -> Rows:
    """One app's metros, at given homes."""
    metros, rps = columns.problem.demand.of(app)
    asked, weights, now = columns.problem.apps[app], columns.problem.weights, columns.running_now(app)
    serve = columns.serve_ms(app, metros.astype(np.int64), homes)
    each = price_floor(columns.instance_price(app), now, weights.move) / asked.rps_per_instance
    runs = columns.may_run(np.array([app]))[0] | ((now > 0) & columns.allowed[columns.policy_of[app]])
    cost = latency_cost(serve, asked.latency_objective_ms, asked.priority, weights) + np.where(runs, each, np.inf)
    return made(columns, np.full(len(rps), app, dtype=np.int64), rps, cost.astype(np.float32))


def _homes_at(columns: Columns, apps: Ints, homes: Ints, price: Floats, spread: Spread) -> Ints:
    """The best homes of each app's own data at these prices, instances by the request."""
    parts = [apps[start : start + PART] for start in range(0, len(apps), PART)]
    found = homes.copy()
    for part, chosen in zip(parts, spread(partial(_best, columns, homes, price), parts), strict=True):
        for app, best in zip(part.tolist(), chosen, strict=True):
            found[columns.own[app]] = best
    return found


def _best(columns: Columns, homes: Ints, price: Floats, apps: Ints) -> list[Ints]:
    return [best_homes(columns, int(app), homes, price) for app in apps]


@dataclass(frozen=True)
class _Trial:
    """A large app among all others: where its home lowers J most, everybody's prices considered."""

    columns: Columns
    app: int
    others: Rows
    homes: Ints
    price: Floats

    def best(self, giants: Giants, spread: Spread) -> tuple[Ints, Floats]:
        """All homes, and the prices with them."""
        columns = self.columns
        candidates = _candidates(columns, giants, self.app, self.price)
        if not len(candidates):
            return self.homes, self.price
        if columns.objective_ms[self.app] < NO_OBJECTIVE_MS:  # they do not know of lateness
            alone = best_homes(columns, self.app, self.homes, self.price)[:1]
            candidates = np.concatenate((candidates, alone[~np.isin(alone, candidates)]))
        found = list(spread(self.at, candidates.tolist()))
        best = int(np.argmin([value for value, _ in found]))
        return self._with(int(candidates[best])), found[best][1]

    def at(self, home: int) -> tuple[float, Floats]:
        """About what all cost with its home there, and the prices."""
        columns = self.columns
        rows = joined([self.others, _exact_rows(columns, self.app, self._with(home))], columns.sites)
        found = settled(rows, columns.capacity * FULL, self.price, _soft(columns, TRIED_MS))
        return found.value + float(home_prices(columns, self.app)[home]), found.price

    def _with(self, home: int) -> Ints:
        homes = self.homes.copy()
        homes[self.columns.own[self.app]] = home
        return homes


def _large_groups(columns: Columns, groups: Sequence[Group], giants: Giants) -> list[int]:
    """Positions of those whose home moves everybody's prices, by the measure of the largest apps, the largest first."""
    units = _units(columns)
    share = (units / np.maximum(units.sum(axis=0), 1e-300)).max(axis=1, initial=0.0) * calls_per_request(columns)
    size = np.array([float(share[group.apps].sum()) for group in groups])
    some = ranked(-size, giants.groups)
    return [int(at) for at in some if size[at] >= giants.share]


@dataclass(frozen=True)
class _GroupTrial:
    """Apps that share data among all others: with which homes J is lowest, everybody's prices considered."""

    columns: Columns
    group: Group
    others: Rows
    homes: Ints
    price: Floats

    @staticmethod
    def of(columns: Columns, group: Group, beside: tuple[_Large, Ints, Bools], price: Floats) -> "_GroupTrial":
        """`beside`: the large apps, all homes, and which of the large apps have theirs."""
        large, homes, fixed = beside
        crowd = crowd_of(columns, np.union1d(large.apps, group.apps))
        some = fewer(rows_of(columns, crowd, homes, settled=fixed), *TRIED_ROWS)
        return _GroupTrial(columns, group, large.beside(some, homes, fixed), homes, price)

    def best(self, giants: Giants, spread: Spread) -> tuple[Ints, Floats]:
        """All homes, and the prices with them."""
        candidates = self._candidates(giants, spread)
        found = list(spread(self.at, candidates))
        best = int(np.argmin([value for value, _ in found]))
        return candidates[best], found[best][1]

    def at(self, homes: Ints) -> tuple[float, Floats]:
        """About what all cost with these homes, and the prices."""
        columns, data = self.columns, self.group.data
        mine = joined([_exact_rows(columns, int(app), homes) for app in self.group.apps], columns.sites)
        rows = joined([self.others, fewer(mine, *TRIED_ROWS)], columns.sites)
        found = settled(rows, columns.capacity * FULL, self.price, _soft(columns, TRIED_MS))
        return found.value + sum(float(moves_of(columns, int(one))[homes[one]]) for one in data), found.price

    def _candidates(self, giants: Giants, spread: Spread) -> list[Ints]:
        """As they are, as they were, all in one of the best cities; and what a descent makes of each."""
        columns, data = self.columns, self.group.data
        cost = together(columns, self.group, self.homes, self.price)
        ways = [self.homes[data], columns.homes_now[data]]
        ways += [np.full(len(data), home) for home in ranked(cost, giants.tried(columns)) if np.isfinite(cost[home])]
        starts = [self._with(way) for way in ways]
        ways += list(spread(partial(_descended_from, columns, self.price, self.group), starts))
        return [self._with(np.array(way)) for way in dict.fromkeys(tuple(way.tolist()) for way in ways)]

    def _with(self, way: Ints) -> Ints:
        homes = self.homes.copy()
        homes[self.group.data] = way
        return homes


def _descended_from(columns: Columns, price: Floats, group: Group, homes: Ints) -> Ints:
    return descended(columns, homes, price, group)


def _candidates(columns: Columns, giants: Giants, app: int, price: Floats) -> Ints:
    """Homes by what the app alone would cost there, in whole cities at these prices, the nearest to each home first."""
    metros, rps = columns.problem.demand.of(app)
    units = _units(columns)[app]
    calls = float(columns.calls_of(app, columns.own[app]).sum())
    weights = columns.problem.weights
    each = (columns.price + price) @ columns.reserve[app] / columns.rate[app]
    beside = weights.latency * calls * columns.site_rtt.T + each  # [homes, sites] of a request at a site with the home there
    order = np.argsort(beside, axis=1, kind="stable")
    holds = np.min([columns.capacity[:, kind] / units[kind] for kind in range(KINDS) if units[kind] > 0.0], axis=0)
    held = np.cumsum(holds[order], axis=1)
    part = np.clip(1.0 - (held - holds[order]), 0.0, holds[order])
    paid = (part * np.take_along_axis(beside, order, axis=1)).sum(axis=1)
    alone = Costs(columns, columns.homes_now, np.zeros_like(columns.capacity), without=columns.own[app])
    users = alone.latency_of(np.full(len(rps), app, dtype=np.int64), metros.astype(np.int64))
    near = floats((rps / rps.sum()) @ users)
    total = np.where(np.isfinite(home_prices(columns, app)), paid + near, np.inf)
    some = ranked(total, giants.tried(columns))
    return some[np.isfinite(total[some])]
