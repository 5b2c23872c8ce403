"""Many apps at given prices, each on its own: what a part of the apps decides, as columns."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from skerry.core.placement.solve.arrays import upto
from skerry.core.placement.solve.ask import Ints
from skerry.core.placement.solve.bound import Dual, bound_app
from skerry.core.placement.solve.columns import Columns, by_app_and_site
from skerry.core.placement.solve.desk import Desk, State
from skerry.core.placement.solve.homes import Ranked, Ways, improved_homes, rank_homes
from skerry.core.placement.solve.one_app import search
from skerry.core.placement.solve.plan import Draft, Flows, Unserved
from skerry.core.types.problem import Bools, Floats

HOMES_TRIED = 2  # for which everything is decided
Spread = Callable[[Callable[[Ints], "Part"], Sequence[Ints]], Iterable["Part"]]
"""Runs a function on each part, in order: `map`, or one that runs them in several processes."""


@dataclass(frozen=True)
class Part:
    """Rows of a draft that belong to some apps."""

    apps: Ints
    instances: tuple[Ints, Ints, Ints]
    flows: tuple[Ints, Ints, Ints, Floats]
    unserved: tuple[Ints, Ints, Floats]
    homes: tuple[Ints, Ints]  # data, site
    short: tuple[tuple[int, str, int], ...]  # app, limit, missing
    bound: Floats  # per app of `apps`
    duals: tuple[Dual | None, ...]  # per app of `apps`


@dataclass(frozen=True)
class Decided:
    """One app's state with the desk it was found on, and the homes it goes with."""

    app: int
    desk: Desk
    state: State
    homes: Ints
    total: float  # J of the app with shadow prices and moved homes
    short: tuple[tuple[str, int], ...]
    bound: float  # of `total`, over all homes
    dual: Dual | None


@dataclass(frozen=True)
class Market:
    """What every app is decided against: shadow prices, and where data is that is not an app's own."""

    columns: Columns
    homes: Ints
    shadow: Floats
    ways: Ways
    settled: Bools  # [A]: apps whose own data stays where `homes` says
    losses: bool  # whether apps reserve for the losses they survive

    @staticmethod
    def at(columns: Columns, homes: Ints, shadow: Floats, settled: Ints | None = None, *, losses: bool = True) -> "Market":
        stay = np.zeros(columns.apps, dtype=np.bool_)
        stay[settled if settled is not None else upto(0)] = True
        return Market(columns, homes, shadow, Ways(columns, shadow), stay, losses)


def decide_app(market: Market, app: int, room: Ints, prover: Market | None = None) -> Decided:
    """One app at these prices, and its own data's homes with it; with its part of the bound at the prices of `prover`."""
    columns = market.columns
    stays = market.settled[app] or len(columns.own[app]) < len(columns.loose[app])
    order = Ranked((market.homes,), (-np.inf,), np.inf) if stays else rank_homes(columns, app, market.homes, market.ways)
    best: Decided | None = None
    duals: list[tuple[Ints, Dual]] = []
    for at, tried in enumerate(order.homes[:HOMES_TRIED]):
        if best is not None and not best.short and order.least[at] >= best.total:
            break
        desk = Desk(columns.ask(app, homes=tried, shadow=market.shadow, room=room))
        state, short = search(desk, losses=market.losses)
        better = improved_homes(columns, app, tried, desk, state)
        total = state.total + better.change + columns.moved_homes_cost(app, better.homes)
        if prover is not None:
            proving = desk.at_prices(prover.shadow @ columns.reserve[app])
            duals.append((tried, bound_app(proving, proving.valued(state))))
        if best is None or (len(short), total) < (len(best.short), best.total):
            best = Decided(app, desk, state, better.homes, total, short, -np.inf, duals[-1][1] if duals else None)
    assert best is not None
    return best if prover is None else replace(best, bound=_bound_over_homes(prover, app, duals))


def _bound_over_homes(prover: Market, app: int, duals: Sequence[tuple[Ints, Dual]]) -> float:
    """The least over all homes: what was proven for those decided, what all others cost at least."""
    columns = prover.columns
    if not len(columns.loose[app]):
        return duals[0][1].value
    known = [dual.value + columns.moved_homes_cost(app, homes) for homes, dual in duals]
    order = rank_homes(columns, app, prover.homes, prover.ways, until=max(known))
    proven = [*order.least, order.rest]
    if len(columns.own[app]) == len(columns.loose[app]):
        for (homes, _), value in zip(duals, known, strict=True):
            for at in [at for at, other in enumerate(order.homes) if np.array_equal(other, homes)]:
                proven[at] = max(proven[at], value)
    return min(proven)


def solve_part(market: Market, prover: Market, apps: Ints) -> Part:
    """Each app as if it were alone but for the prices."""
    columns = market.columns
    return collect([decide_app(market, int(app), columns.room(int(app)), prover) for app in apps], columns)


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
        short=tuple((one.app, name, missing) for one in found for name, missing in one.short),
        bound=np.array([one.bound for one in found], dtype=np.float64),
        duals=tuple(one.dual for one in found),
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
        short=(),
        bound=np.zeros(0),
        duals=(),
    )


def _metros(columns: Columns, one: Decided) -> Ints:
    """Of each row of the desk."""
    return columns.problem.demand.of(one.app)[0].astype(np.int64)[one.desk.rows]


def _joined(parts: Sequence[Ints]) -> Ints:
    return np.concatenate([upto(0), *parts])
