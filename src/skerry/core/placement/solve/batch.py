"""Many apps at given prices, each on its own: what a part of the apps decides, as columns."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from skerry.core.placement.solve.arrays import joined, ordered, upto
from skerry.core.placement.solve.ask import Ints
from skerry.core.placement.solve.bound import CountPrices, Dual, bound_app, bound_with, count_prices, instance_constant
from skerry.core.placement.solve.by_request import WASTE_MOST, least_costs, simple, spread_out, topped_up
from skerry.core.placement.solve.columns import Columns, by_app_and_site
from skerry.core.placement.solve.costs import Costs
from skerry.core.placement.solve.crowd import movable
from skerry.core.placement.solve.desk import Desk, State
from skerry.core.placement.solve.homes import best_homes, home_costs, improved_homes, moving_cost
from skerry.core.placement.solve.one_app import search
from skerry.core.placement.solve.plan import Draft, Flows, Unserved
from skerry.core.placement.solve.tangents import Tangents, curved, least_between
from skerry.core.types.problem import Bools, Floats

PART = 256  # apps decided together
Solved = tuple["Part", "Proof"]


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
    searched: Bools  # [apps]: decided with whole instances
    least: Floats  # [apps] J, shadow prices included
    metro_price: Floats  # of all rows of their demand, app by app
    count_price: Floats  # [apps, 2]
    homes: tuple[Ints, Ints]  # data, site: of the movable data they call, which the metro prices are for
    tangents: Tangents


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

    def counts(self, sites: int) -> Ints:
        """[S]"""
        found = np.zeros(sites, dtype=np.int64)
        found[self.desk.columns[self.state.sites]] = self.state.counts
        return found


@dataclass(frozen=True)
class Market:
    """What every app is decided against: shadow prices, and where data is that is not an app's own."""

    columns: Columns
    homes: Ints
    shadow: Floats
    settled: Bools  # [A]: apps whose own data stays where `homes` says
    losses: bool  # whether apps reserve for the losses they survive
    soft: float = 0.0  # J per rps: between sites that differ by less, requests divide

    @staticmethod
    def at(
        columns: Columns, homes: Ints, shadow: Floats, settled: Ints | None = None, *, losses: bool = True, soft: float = 0.0
    ) -> "Market":
        stay = np.zeros(columns.apps, dtype=np.bool_)
        stay[settled if settled is not None else upto(0)] = True
        return Market(columns, homes, shadow, stay, losses, soft)

    @cached_property
    def costs(self) -> Costs:
        """Of every app's requests, for an instance that starts."""
        return Costs(self.columns, self.homes, self.shadow, started=True)


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
    if np.array_equal(best, market.homes):
        return [market.homes]
    return [best, market.homes] if columns.home_sites[market.homes[own]].all() else [best]  # where it may not stay is no choice


def prove(prover: Market, one: Decided) -> tuple[Dual, Tangents]:
    """A lower bound of the app's part of J at the prices of `prover`, over all homes; its metro prices are for `one.tried`."""
    columns = prover.columns
    desk = one.desk.at_prices(prover.shadow @ columns.reserve[one.app])
    state = desk.valued(one.state)
    best = bound_app(desk, state)
    loose = columns.loose[one.app]
    if not len(loose):
        return best, {}
    ask = columns.ask_for_homes(one.app, one.tried, prover.shadow)
    moved = sum(float(moving_cost(columns, int(data))[one.tried[data]]) for data in loose)
    found: list[float] = []
    tangents: list[Tangents] = []
    tried = (best, *(bound_with(desk, best.metro_price, counts) for counts in _other_prices(best, desk, state)))
    for dual in tried:
        high, low = dual.count_price
        costs = home_costs(columns, one.app, ask, one.tried, high - low)
        constant = instance_constant(desk, dual.count_price)
        here = max(dual.value + moved, constant + float(costs.least[upto(len(loose)), one.tried[loose]].sum()))
        elsewhere, between = costs.total_but(one.tried[loose]), Tangents()
        if curved(columns, one.app):
            least = least_between(columns, one.app, ask, one.tried, count_price=high - low)
            elsewhere, between = max(elsewhere, least.value), {one.app: least.homes}
        found.append(min(here, constant + elsewhere))
        tangents.append(between)
    at = int(np.argmax(found))
    return replace(tried[at], value=found[at]), tangents[at]


def _other_prices(best: Dual, desk: Desk, state: State) -> list[CountPrices]:
    """Prices of the count limits that another bound may come from: each means all homes again."""
    free: CountPrices = (0.0, 0.0)
    return [counts for counts in dict.fromkeys((free, *count_prices(desk, state))) if counts != best.count_price]


def app_parts(columns: Columns) -> list[Ints]:
    """All apps, in parts that are worth a message between processes."""
    return [upto(columns.apps)[start : start + PART] for start in range(0, columns.apps, PART)]


def solve_part(market: Market, prover: Market, apps: Ints) -> tuple[Part, Proof]:
    """Each app as if it were alone but for the prices: by the request where that is near enough, else by search."""
    columns = market.columns
    by_request = apps[simple(columns)[apps] & (market.settled[apps] | ~movable(columns)[apps])]
    spreading = spread_out(columns, market.costs, market.shadow, by_request, market.soft)
    kept = np.zeros(columns.apps, dtype=np.bool_)
    kept[by_request[spreading.waste[by_request] <= WASTE_MOST]] = True
    spreading = topped_up(columns, spreading.of(kept), market.shadow)
    searched, proofs = _searched(market, prover, apps[~kept[apps]])
    near = apps[kept[apps]]
    (app, site, count), (flow_app, metro, flow_site, rps) = spreading.instances, spreading.flows
    (lost_app, lost_metro, lost), other = spreading.unserved, searched
    part = Part(
        apps=apps,
        instances=(_then(app, other.instances[0]), _then(site, other.instances[1]), _then(count, other.instances[2])),
        flows=(
            _then(flow_app, other.flows[0]),
            _then(metro, other.flows[1]),
            _then(flow_site, other.flows[2]),
            np.concatenate((rps, other.flows[3])),
        ),
        unserved=(
            _then(lost_app, other.unserved[0]),
            _then(lost_metro, other.unserved[1]),
            np.concatenate((lost, other.unserved[2])),
        ),
        homes=other.homes,
    )
    return part, _merged(columns, proofs, _by_request(prover, near, market.homes))


def _by_request(prover: Market, apps: Ints, homes: Ints, tangents: Tangents | None = None) -> Proof:
    columns = prover.columns
    loose = [columns.loose[int(app)] for app in apps]
    least, between = least_costs(columns, prover.costs, prover.shadow, apps, homes, tangents=tangents)
    return Proof(
        apps=apps,
        searched=np.zeros(len(apps), dtype=np.bool_),
        least=least,
        metro_price=np.full(int(np.diff(columns.problem.demand.start)[apps].sum()), np.nan),
        count_price=np.zeros((len(apps), 2)),
        homes=(joined(loose), joined([homes[data] for data in loose])),
        tangents=between,
    )


def prove_part(prover: Market, homes: Ints, apps: Ints, *, tangents: Tangents | None = None) -> Proof:
    """Each app's part of the bound at other prices, by the request: `homes` are those that tangents are nearest to, unless
    `tangents` says between which they lie."""
    return _by_request(prover, apps, homes, tangents)


def _searched(market: Market, prover: Market, apps: Ints) -> tuple[Part, Proof]:
    columns = market.columns
    found = [decide_app(market, int(app), columns.room(int(app))) for app in apps]
    duals = [prove(prover, one) for one in found]
    loose = [columns.loose[one.app] for one in found]
    proof = Proof(
        apps=apps,
        searched=np.ones(len(apps), dtype=np.bool_),
        least=np.array([dual.value for dual, _ in duals]),
        metro_price=np.concatenate([np.zeros(0), *(dual.metro_price for dual, _ in duals)]),
        count_price=np.array([dual.count_price for dual, _ in duals]).reshape(len(apps), 2),
        homes=(joined(loose), joined([one.tried[data] for one, data in zip(found, loose, strict=True)])),
        tangents={app: homes for _, between in duals for app, homes in between.items()},
    )
    return collect(found, columns), proof


def _merged(columns: Columns, left: Proof, right: Proof) -> Proof:
    """Of both, by app."""
    apps = np.concatenate((left.apps, right.apps))
    order = np.argsort(apps, kind="stable")
    lengths = np.diff(columns.problem.demand.start)
    rows = np.argsort(np.repeat(apps, lengths[apps]), kind="stable")
    calls = np.array([len(found) for found in columns.loose], dtype=np.int64)
    homes = np.argsort(np.repeat(apps, calls[apps]), kind="stable")
    data, site = _then(left.homes[0], right.homes[0]), _then(left.homes[1], right.homes[1])
    return Proof(
        apps=apps[order],
        searched=np.concatenate((left.searched, right.searched))[order],
        least=np.concatenate((left.least, right.least))[order],
        metro_price=np.concatenate((left.metro_price, right.metro_price))[rows],
        count_price=np.concatenate((left.count_price, right.count_price))[order],
        homes=(data[homes], site[homes]),
        tangents=left.tangents | right.tangents,
    )


def _then(left: Ints, right: Ints) -> Ints:
    return np.concatenate((left, right))


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
            joined([one.desk.columns[one.state.sites] for one in found]),
            joined([one.state.counts for one in found]),
        ),
        flows=(
            np.repeat(apps, flows),
            joined([_metros(columns, one)[one.state.pieces.metro] for one in found]),
            joined([one.desk.columns[one.state.sites[one.state.pieces.site]] for one in found]),
            np.concatenate([np.zeros(0), *(one.state.pieces.rps for one in found)]),
        ),
        unserved=(
            np.repeat(apps, [len(rows) for rows in left]),
            joined([_metros(columns, one)[rows] for one, rows in zip(found, left, strict=True)]),
            np.concatenate([np.zeros(0), *(one.state.pieces.unserved[rows] for one, rows in zip(found, left, strict=True))]),
        ),
        homes=(joined(own), joined([one.homes[data] for one, data in zip(found, own, strict=True)])),
    )


def draft_of(columns: Columns, parts: Sequence[Part], homes: Ints) -> Draft:
    """Parts that together cover all apps."""
    homes = homes.copy()
    for part in parts:
        homes[part.homes[0]] = part.homes[1]
    app, site, count = (joined([part.instances[at] for part in parts]) for at in range(3))
    flow = (joined([p.flows[0] for p in parts]), joined([p.flows[1] for p in parts]), joined([p.flows[2] for p in parts]))
    rps = np.concatenate([np.zeros(0), *(part.flows[3] for part in parts)])
    rows = ordered(flow[0], flow[1], flow[2])
    lost = (joined([part.unserved[0] for part in parts]), joined([part.unserved[1] for part in parts]))
    lost_rps = np.concatenate([np.zeros(0), *(part.unserved[2] for part in parts)])
    lost_rows = ordered(lost[0], lost[1])
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
