"""Many apps at given prices, each on its own: what a part of the apps decides, as columns."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from skerry.core.placement.solve.arrays import upto
from skerry.core.placement.solve.ask import Ints
from skerry.core.placement.solve.bound import CountPrices, Dual, bound_app, bound_with, count_prices, instance_constant
from skerry.core.placement.solve.columns import Columns, by_app_and_site
from skerry.core.placement.solve.desk import Desk, State
from skerry.core.placement.solve.homes import best_homes, home_costs, improved_homes, moving_cost
from skerry.core.placement.solve.one_app import search
from skerry.core.placement.solve.plan import Draft, Flows, Unserved
from skerry.core.types.problem import Bools, Floats

Solved = tuple["Part", "Proof"]
Spread = Callable[[Callable[[Ints], Solved], Sequence[Ints]], Iterable[Solved]]
"""Runs a function on each part, in order: `map`, or one that runs them in several processes."""


@dataclass(frozen=True)
class Part:
    """Rows of a draft that belong to some apps."""

    apps: Ints
    instances: tuple[Ints, Ints, Ints]
    flows: tuple[Ints, Ints, Ints, Floats]
    unserved: tuple[Ints, Ints, Floats]
    homes: tuple[Ints, Ints]  # data, site


@dataclass(frozen=True)
class Proof:
    """What proves the part of the bound of some apps."""

    apps: Ints
    least: Floats  # [apps] J, shadow prices included
    metro_price: Floats  # of all rows of their demand, app by app
    count_price: Floats  # [apps, 2]
    homes: tuple[Ints, Ints]  # data, site: of the movable data they call, which the metro prices are for


@dataclass(frozen=True)
class Decided:
    """One app's state with the desk it was found on, and the homes it goes with."""

    app: int
    desk: Desk
    state: State
    tried: Ints  # homes that the desk was made for
    homes: Ints
    total: float  # J of the app with shadow prices and moved homes
    short: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Market:
    """What every app is decided against: shadow prices, and where data is that is not an app's own."""

    columns: Columns
    homes: Ints
    shadow: Floats
    settled: Bools  # [A]: apps whose own data stays where `homes` says
    losses: bool  # whether apps reserve for the losses they survive

    @staticmethod
    def at(columns: Columns, homes: Ints, shadow: Floats, settled: Ints | None = None, *, losses: bool = True) -> "Market":
        stay = np.zeros(columns.apps, dtype=np.bool_)
        stay[settled if settled is not None else upto(0)] = True
        return Market(columns, homes, shadow, stay, losses)


def decide_app(market: Market, app: int, room: Ints) -> Decided:
    """One app at these prices, and its own data's homes with it."""
    columns = market.columns
    best: Decided | None = None
    for tried in _homes_to_try(market, app):
        desk = Desk(columns.ask(app, homes=tried, shadow=market.shadow, room=room))
        state, short = search(desk, losses=market.losses)
        better = improved_homes(columns, app, tried, desk, state)
        total = state.total + better.change + columns.moved_homes_cost(app, better.homes)
        if best is None or (len(short), total) < (len(best.short), best.total):
            best = Decided(app, desk, state, tried, better.homes, total, short)
    assert best is not None
    return best


def _homes_to_try(market: Market, app: int) -> list[Ints]:
    """Where they are, and where each of its data would be best by itself."""
    columns = market.columns
    own = columns.own[app]
    if market.settled[app] or not len(own) or len(own) < len(columns.loose[app]):
        return [market.homes]
    best = market.homes.copy()
    best[own] = best_homes(columns, app, market.homes, market.shadow)
    return [market.homes] if np.array_equal(best, market.homes) else [best, market.homes]


def prove(prover: Market, one: Decided) -> Dual:
    """A lower bound of the app's part of J at the prices of `prover`, over all homes; its metro prices are for `one.tried`."""
    columns = prover.columns
    desk = one.desk.at_prices(prover.shadow @ columns.reserve[one.app])
    state = desk.valued(one.state)
    best = bound_app(desk, state)
    loose = columns.loose[one.app]
    if not len(loose):
        return best
    ask = columns.ask_for_homes(one.app, one.tried, prover.shadow)
    moved = sum(float(moving_cost(columns, int(data))[one.tried[data]]) for data in loose)
    found: list[float] = []
    tried = (best, *(bound_with(desk, best.metro_price, counts) for counts in _other_prices(best, desk, state)))
    for dual in tried:
        high, low = dual.count_price
        costs = home_costs(columns, one.app, ask, high - low)
        constant = instance_constant(desk, dual.count_price)
        here = max(dual.value + moved, constant + float(costs.least[upto(len(loose)), one.tried[loose]].sum()))
        found.append(min(here, constant + costs.total_but(one.tried[loose])))
    at = int(np.argmax(found))
    return replace(tried[at], value=found[at])


def _other_prices(best: Dual, desk: Desk, state: State) -> list[CountPrices]:
    """Prices of the count limits that another bound may come from: each means all homes again."""
    free: CountPrices = (0.0, 0.0)
    return [counts for counts in dict.fromkeys((free, *count_prices(desk, state))) if counts != best.count_price]


def solve_part(market: Market, prover: Market, apps: Ints) -> tuple[Part, Proof]:
    """Each app as if it were alone but for the prices."""
    columns = market.columns
    found = [decide_app(market, int(app), columns.room(int(app))) for app in apps]
    duals = [prove(prover, one) for one in found]
    loose = [columns.loose[one.app] for one in found]
    proof = Proof(
        apps=apps,
        least=np.array([dual.value for dual in duals]),
        metro_price=np.concatenate([np.zeros(0), *(dual.metro_price for dual in duals)]),
        count_price=np.array([dual.count_price for dual in duals]).reshape(len(apps), 2),
        homes=(_joined(loose), _joined([one.tried[data] for one, data in zip(found, loose, strict=True)])),
    )
    return collect(found, columns), proof


def collect(decided: Iterable[Decided], columns: Columns) -> Part:
    """The rows of some decisions."""
    found = list(decided)
    sizes = [len(one.state.sites) for one in found]
    flows = [len(one.state.pieces.site) for one in found]
    apps = np.array([one.app for one in found], dtype=np.int64)
    left = [np.flatnonzero(one.state.pieces.unserved > 0.0) for one in found]
    own = [columns.own[one.app] for one in found]
    return Part(
        apps=apps,
        instances=(
            np.repeat(apps, sizes),
            _joined([one.desk.columns[one.state.sites] for one in found]),
            _joined([one.state.counts for one in found]),
        ),
        flows=(
            np.repeat(apps, flows),
            _joined([_metros(columns, one)[one.state.pieces.metro] for one in found]),
            _joined([one.desk.columns[one.state.sites[one.state.pieces.site]] for one in found]),
            np.concatenate([np.zeros(0), *(one.state.pieces.rps for one in found)]),
        ),
        unserved=(
            np.repeat(apps, [len(rows) for rows in left]),
            _joined([_metros(columns, one)[rows] for one, rows in zip(found, left, strict=True)]),
            np.concatenate([np.zeros(0), *(one.state.pieces.unserved[rows] for one, rows in zip(found, left, strict=True))]),
        ),
        homes=(_joined(own), _joined([one.homes[data] for one, data in zip(found, own, strict=True)])),
    )


def draft_of(columns: Columns, parts: Sequence[Part], homes: Ints) -> Draft:
    """Parts that together cover all apps."""
    homes = homes.copy()
    for part in parts:
        homes[part.homes[0]] = part.homes[1]
    app, site, count = (_joined([part.instances[at] for part in parts]) for at in range(3))
    flow = (_joined([p.flows[0] for p in parts]), _joined([p.flows[1] for p in parts]), _joined([p.flows[2] for p in parts]))
    rps = np.concatenate([np.zeros(0), *(part.flows[3] for part in parts)])
    rows = np.lexsort((flow[2], flow[1], flow[0]))
    lost = (_joined([part.unserved[0] for part in parts]), _joined([part.unserved[1] for part in parts]))
    lost_rps = np.concatenate([np.zeros(0), *(part.unserved[2] for part in parts)])
    lost_rows = np.lexsort((lost[1], lost[0]))
    return Draft(
        placed=by_app_and_site(app, site, count),
        flows=Flows(flow[0][rows], flow[1][rows], flow[2][rows], rps[rows]),
        unserved=Unserved(lost[0][lost_rows], lost[1][lost_rows], lost_rps[lost_rows]),
        homes=homes,
    )


def without(columns: Columns, draft: Draft, apps: Ints) -> Part:
    """The rows of a draft that do not belong to `apps`."""
    keep = np.ones(columns.apps, dtype=np.bool_)
    keep[apps] = False
    placed, flows, lost = draft.placed, draft.flows, draft.unserved
    at, on, out = (np.flatnonzero(keep[rows]) for rows in (placed.app, flows.app, lost.app))
    return Part(
        apps=np.flatnonzero(keep),
        instances=(placed.app[at], placed.site[at], placed.count[at]),
        flows=(flows.app[on], flows.metro[on], flows.site[on], flows.rps[on]),
        unserved=(lost.app[out], lost.metro[out], lost.rps[out]),
        homes=(upto(0), upto(0)),
    )


def _metros(columns: Columns, one: Decided) -> Ints:
    """Of each row of the desk."""
    return columns.problem.demand.of(one.app)[0].astype(np.int64)[one.desk.rows]


def _joined(parts: Sequence[Ints]) -> Ints:
    return np.concatenate([upto(0), *parts])
