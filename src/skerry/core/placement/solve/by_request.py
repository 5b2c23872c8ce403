"""Apps for which whole instances hardly matter: every metro spreads over the sites that are cheapest at the prices.

Of requests that cost about the same at several sites each site gets a part, as the prices were made for; so that many apps
together want about what there is. The bound of such an app is its requests at their cheapest site, instances by the request.
"""

from dataclasses import dataclass

import numpy as np

from skerry.core.placement.solve.arrays import floats, joined, sums
from skerry.core.placement.solve.ask import Ints
from skerry.core.placement.solve.bound import SAFETY
from skerry.core.placement.solve.columns import Columns
from skerry.core.placement.solve.costs import SINGLE, Costs, Small
from skerry.core.placement.solve.crowd import chunks, pair_rows
from skerry.core.placement.solve.homes import home_costs
from skerry.core.placement.solve.tangents import Tangents, curved, least_between
from skerry.core.types.problem import PRIORITY_NEUTRAL, Bools, Floats

PART_LEAST = 0.05  # of a metro's requests: less does not go to a site of its own
DIVIDED_FROM = 20.0  # instances: fewer stay together
WASTE_MOST = 0.02  # of an app's J: what whole instances may cost more than instances by the request


Flow = tuple[Ints, Ints, Ints, Floats]  # app, metro, site, rps
Lost = tuple[Ints, Ints, Floats]  # app, metro, rps


@dataclass(frozen=True)
class Spreading:
    """Flows and counts of some apps, by app; `metro` are metros of the problem."""

    flows: Flow
    unserved: Lost
    instances: tuple[Ints, Ints, Ints]
    waste: Floats  # [A]: what whole instances cost above instances by the request, as a part of the app's J

    def of(self, kept: Bools) -> "Spreading":
        """The rows of some apps."""
        flows, out, placed = (np.flatnonzero(kept[rows[0]]) for rows in (self.flows, self.unserved, self.instances))
        app, metro, site, rps = self.flows
        return Spreading(
            flows=(app[flows], metro[flows], site[flows], rps[flows]),
            unserved=(self.unserved[0][out], self.unserved[1][out], self.unserved[2][out]),
            instances=(self.instances[0][placed], self.instances[1][placed], self.instances[2][placed]),
            waste=self.waste,
        )


def simple(columns: Columns) -> Bools:
    """[A]: without what only a search can keep: instances that run now, limits from above, several at once."""
    free = [app.max_total is None and app.max_site is None and app.min_site <= 1 for app in columns.problem.apps]
    return np.array(free, dtype=np.bool_) & (np.diff(columns.now_start) == 0)


def spread_out(columns: Columns, costs: Costs, shadow: Floats, apps: Ints, soft: float) -> Spreading:
    """`costs` are at the shadow prices [S, KINDS]; `soft` in J per rps. Who finds no site that is worth it is not served."""
    demand = columns.problem.demand
    flows: list[Flow] = []
    left: list[Lost] = []
    total = np.zeros(columns.apps)
    for part in chunks(np.diff(demand.start)[apps]):
        rows, owner = pair_rows(columns, apps[part])
        app, metro, rps = apps[part][owner], demand.metro[rows].astype(np.int64), demand.rps[rows]
        paid = costs.of(app, metro)
        least = paid.min(axis=1)
        served = least < _lost(columns, app)
        at, site, amount = _shares(
            paid[served], least[served], rps[served], rps[served] >= DIVIDED_FROM * columns.rate[app[served]], soft
        )
        flows.append((app[served][at], metro[served][at], site, amount))
        left.append((app[~served], metro[~served], rps[~served]))
        total += sums(app[served], rps[served] * least[served], columns.apps)
    app, metro, site, rps = _joined_flows(flows)
    keys, row = np.unique(app * columns.sites + site, return_inverse=True)
    loads = sums(np.asarray(row, dtype=np.int64).ravel(), rps, len(keys))
    held, where = keys // columns.sites, keys % columns.sites
    counts = np.ceil(loads / columns.rate[held] - 1e-9).astype(np.int64)
    price = np.einsum("ik,ik->i", (columns.price + shadow)[where], columns.reserve[held]) + columns.problem.weights.move
    waste = sums(held, floats((counts - loads / columns.rate[held]) * price), columns.apps)
    return Spreading(
        flows=(app, metro, site, rps),
        unserved=_joined_lost(left),
        instances=(held, where, counts),
        waste=waste / np.maximum(total, 1e-300),
    )


def _joined_flows(parts: list[Flow]) -> Flow:
    app, metro = joined([part[0] for part in parts]), joined([part[1] for part in parts])
    return app, metro, joined([part[2] for part in parts]), np.concatenate([np.zeros(0), *(part[3] for part in parts)])


def _joined_lost(parts: list[Lost]) -> Lost:
    rps = np.concatenate([np.zeros(0), *(part[2] for part in parts)])
    return joined([part[0] for part in parts]), joined([part[1] for part in parts]), rps


def _shares(paid: Small, least: Small, rps: Floats, divided: Bools, soft: float) -> tuple[Ints, Ints, Floats]:
    """Row, site and amount of each flow."""
    share = np.exp((least[:, None] - paid) * np.float32(1.0 / soft))
    single = np.flatnonzero(~divided)
    best = paid[single].argmin(axis=1)
    share[single] = 0.0
    share[single, best] = 1.0
    share /= share.sum(axis=1)[:, None]
    row, site = np.nonzero(share >= PART_LEAST)
    amount = floats(share[row, site])
    amount *= (rps / sums(row, amount, len(rps)))[row]
    return row.astype(np.int64), site.astype(np.int64), amount


def least_costs(
    columns: Columns, costs: Costs, shadow: Floats, apps: Ints, homes: Ints, *, tangents: Tangents | None = None
) -> tuple[Floats, Tangents]:
    """[apps]: at most the J of each at the prices, over all homes of the data it calls. `costs` are at the same prices.
    `tangents`: with these, not with the best."""
    demand = columns.problem.demand
    found = np.zeros(columns.apps)
    fixed = np.array([len(columns.loose[int(app)]) == 0 for app in apps], dtype=np.bool_)
    some = apps[fixed]
    for part in chunks(np.diff(demand.start)[some]):
        rows, owner = pair_rows(columns, some[part])
        app, rps = some[part][owner], demand.rps[rows]
        least = floats(costs.of(app, demand.metro[rows].astype(np.int64)).min(axis=1)) * (1.0 - SINGLE)
        found += sums(app, rps * np.minimum(least, _lost(columns, app)), columns.apps)
    kept = kept_at_least(columns, shadow)
    found += kept
    between: Tangents = {}
    for app in apps[~fixed].tolist():
        ask = columns.ask_for_homes(app, homes, shadow)
        least = float(home_costs(columns, app, ask, homes).least.min(axis=1).sum())
        if curved(columns, app):
            said = tangents.get(app, ()) if tangents is not None else ()
            best = least_between(columns, app, ask, homes if tangents is None else None, said=said)
            least, between[app] = max(least, best.value), best.homes
        found[app] = least + kept[app]
    return found[apps] * (1.0 - SAFETY), between


def kept_at_least(columns: Columns, shadow: Floats) -> Floats:
    """[A]: what instances of now cost beyond what their requests pay: their end, or at most as much of their price."""
    now, move = columns.now, columns.problem.weights.move
    price = np.einsum("ik,ik->i", (columns.price + shadow)[now.site], columns.reserve[now.app])
    stays = columns.allowed[columns.policy_of[now.app], now.site]
    return sums(now.app, floats(np.where(stays, np.minimum(price, move), move) * now.count), columns.apps)


def topped_up(columns: Columns, spreading: Spreading, shadow: Floats) -> Spreading:
    """With instances for minimums in total and in regions, where one more costs least."""
    held, where, counts = spreading.instances
    total = sums(held, floats(counts), columns.apps)
    more: list[tuple[int, int, int]] = []
    for app in [int(app) for app in np.unique(np.concatenate((held, spreading.unserved[0])))]:
        asked = columns.problem.apps[app]
        if not asked.region_min and total[app] >= asked.min_total:
            continue
        rows = slice(*np.searchsorted(held, (app, app + 1)))
        have = np.zeros(columns.sites, dtype=np.int64)
        have[where[rows]] = counts[rows]
        more += _missing(columns, app, have, shadow)
    if not more:
        return spreading
    added = np.array(more, dtype=np.int64)
    keys, row = np.unique(
        np.concatenate((held, added[:, 0])) * columns.sites + np.concatenate((where, added[:, 1])), return_inverse=True
    )
    sum_ = sums(np.asarray(row, dtype=np.int64).ravel(), floats(np.concatenate((counts, added[:, 2]))), len(keys))
    instances = (keys // columns.sites, keys % columns.sites, sum_.astype(np.int64))
    return Spreading(spreading.flows, spreading.unserved, instances, spreading.waste)


def _missing(columns: Columns, app: int, have: Ints, shadow: Floats) -> list[tuple[int, int, int]]:
    asked = columns.problem.apps[app]
    price = (columns.price + shadow) @ columns.reserve[app]
    room = columns.room(app) - have
    found: list[tuple[int, int, int]] = []
    masks = [(columns.region(entry.region), entry.count) for entry in asked.region_min]
    for mask, least in [*masks, (np.ones(columns.sites, dtype=np.bool_), asked.min_total)]:
        missing = least - int(have[mask].sum())
        for site in np.argsort(np.where(mask & (room > 0), price, np.inf), kind="stable").tolist():
            if missing <= 0 or not mask[site] or room[site] <= 0:
                break
            step = min(missing, int(room[site]))
            found.append((app, site, step))
            have[site] += step
            room[site] -= step
            missing -= step
    return found


def _lost(columns: Columns, app: Ints) -> Floats:
    """[rows]: J per rps that is not served."""
    return columns.problem.weights.unserved * columns.priority[app] / PRIORITY_NEUTRAL
