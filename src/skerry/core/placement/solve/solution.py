"""The record of a whole decision, in the order of the problem it answers."""

from dataclasses import dataclass

import numpy as np

from skerry.core.placement.solve.arrays import floats, ordered, sums
from skerry.core.placement.solve.ask import Ints
from skerry.core.placement.solve.books import Books
from skerry.core.placement.solve.certify import AtPrices, Proven
from skerry.core.placement.solve.columns import Columns, Instances
from skerry.core.placement.solve.limits import in_largest
from skerry.core.placement.solve.losses import unsafe_apps
from skerry.core.placement.solve.plan import Flows, Terms, Unserved, serve_of, terms_of
from skerry.core.placement.solve.repair import broken
from skerry.core.types.problem import PRIORITY_NEUTRAL, Floats


@dataclass(frozen=True)
class SitePrices:
    """One set of prices of sites, with the levels (app, home, J per request) that `apart` tells of."""

    price: Floats  # [S, (cpu_millicores, memory_mib, disk_mib)] J per unit
    levels: tuple[tuple[int, int, float], ...] = ()


@dataclass(frozen=True)
class Certificate:
    """The prices that prove a bound (see `bound`, `homes` and `apart`), in the caller's order. At the first prices of sites apps
    have metro and count prices; at the others everybody counts by the request."""

    prices: tuple[SitePrices, ...]
    apart: tuple[int, ...]  # apps whose homes are chosen together
    metro_price: Floats  # per row of the problem's demand, J per rps; not a number: what the cheapest site costs, by the request
    count_price: Floats  # [A, (max_total, min_total)] J per instance
    homes: tuple[tuple[int, int, int], ...]  # app, data, site: of movable data, where it is for the app's metro prices
    tangents: tuple[tuple[int, tuple[int, ...]], ...] = ()  # app, homes (sites) that the tangent of its lateness lies between


@dataclass(frozen=True)
class Solution:
    """Instances, flows, what is not served and homes; what it costs, and at most how far it is from the best.

    Indices are those of the problem. `bound` and `certificate` are None for a plan that was changed since it was proven.
    `reasons.rejected` says why a site does not run an app.
    """

    instances: Instances
    flows: Flows
    unserved: Unserved
    homes: Ints  # [data] site
    objective: Terms
    short: tuple[tuple[int, str, int], ...]  # app, limit, instances missing
    shadow: Floats  # [S, KINDS] the prices that the next decision goes on at
    bound: float | None = None
    certificate: Certificate | None = None

    @property
    def gap(self) -> float | None:
        """(J − bound) / bound; None without a bound above 0."""
        return None if self.bound is None or self.bound <= 0.0 else (self.objective.total - self.bound) / self.bound


def app_totals(columns: Columns, books: Books) -> Floats:
    """[A]: each app's part of J; moved homes count with the app that owns the data."""
    draft = books.draft()
    flows, placed = draft.flows, draft.placed
    weights = columns.problem.weights
    serve = serve_of(columns, flows, draft.homes)
    priority = columns.priority / PRIORITY_NEUTRAL
    over = np.maximum(0.0, serve - columns.objective_ms[flows.app])
    paid = flows.rps * (weights.latency * serve + weights.late * priority[flows.app] * over)
    total = sums(flows.app, paid, columns.apps)
    total += sums(draft.unserved.app, weights.unserved * priority[draft.unserved.app] * draft.unserved.rps, columns.apps)
    price = np.einsum("ik,ik->i", columns.price[placed.site], columns.reserve[placed.app])
    total += sums(placed.app, floats(price * placed.count), columns.apps)
    now = np.zeros_like(books.counts)
    now[columns.now.app, columns.now.site] = columns.now.count
    total += weights.move * np.abs(books.counts - now).sum(axis=1)
    return total + np.array([columns.moved_homes_cost(app, draft.homes) for app in range(columns.apps)])


def finished(columns: Columns, books: Books, shadow: Floats, proof: Proven) -> Solution:
    """The solution in the caller's order, with its bound. `shadow`: what the next decision goes on at."""
    return in_callers_order(columns, books, shadow, certified(columns, proof))


def certified(columns: Columns, proof: Proven) -> tuple[float, Certificate]:
    """The bound, and what proves it, in the caller's order."""
    order = columns.order
    metro_price, count_price = np.zeros(len(order.pairs)), np.zeros((columns.apps, 2))
    homes: list[tuple[int, int, int]] = []
    tangents: list[tuple[int, tuple[int, ...]]] = []
    for part in proof.prices[0].proofs:
        count_price[part.apps] = part.count_price
        start = int(columns.problem.demand.start[part.apps[0]]) if len(part.apps) else 0
        metro_price[start : start + len(part.metro_price)] = part.metro_price
        callers = np.repeat(part.apps, [len(columns.loose[int(app)]) for app in part.apps])
        rows = (order.apps[callers], order.data[part.homes[0]], order.sites[part.homes[1]])
        tangents += [
            (int(order.apps[app]), tuple(order.sites[list(sites)].tolist())) for app, sites in part.tangents.items() if sites
        ]
        homes += [(int(app), int(data), int(site)) for app, data, site in zip(*rows, strict=True)]
    by_caller = np.empty_like(metro_price)
    by_caller[order.pairs] = metro_price
    certificate = Certificate(
        prices=tuple(SitePrices(_placed(one.shadow, order.sites), _levels(columns, proof.apart, one)) for one in proof.prices),
        apart=tuple(order.apps[proof.apart].tolist()),
        metro_price=by_caller,
        count_price=_placed(count_price, order.apps),
        homes=tuple(sorted(homes)),
        tangents=tuple(sorted(tangents)),
    )
    return proof.bound, certificate


def _levels(columns: Columns, apart: Ints, prices: AtPrices) -> tuple[tuple[int, int, float], ...]:
    order = columns.order
    found = [
        (int(order.apps[app]), int(order.sites[home]), float(table.level[home]))
        for app, table in zip(apart.tolist(), prices.tables, strict=True)
        for home in table.looked_at()
    ]
    return tuple(sorted(found))


def _placed(values: Floats, where: Ints) -> Floats:
    found = np.empty_like(values)
    found[where] = values
    return found


def in_callers_order(columns: Columns, books: Books, shadow: Floats, proof: tuple[float, Certificate] | None = None) -> Solution:
    """The books as a record."""
    draft = books.draft()
    bound, certificate = proof or (None, None)
    order, placed, flows, lost = columns.order, draft.placed, draft.flows, draft.unserved
    app, site = order.apps[placed.app], order.sites[placed.site]
    rows = ordered(app, site)
    flow = (order.apps[flows.app], order.metros[flows.metro], order.sites[flows.site])
    flow_rows = ordered(flow[0], flow[1], flow[2])
    out = (order.apps[lost.app], order.metros[lost.metro])
    out_rows = ordered(out[0], out[1])
    homes = np.empty(len(draft.homes), dtype=np.int64)
    homes[order.data] = order.sites[draft.homes]
    return Solution(
        instances=Instances(app[rows], site[rows], placed.count[rows]),
        flows=Flows(flow[0][flow_rows], flow[1][flow_rows], flow[2][flow_rows], flows.rps[flow_rows]),
        unserved=Unserved(out[0][out_rows], out[1][out_rows], lost.rps[out_rows]),
        homes=homes,
        objective=terms_of(columns, draft),
        short=tuple(sorted((int(order.apps[at]), name, missing) for at, name, missing in shortfalls(columns, books))),
        shadow=_placed(shadow, order.sites),
        bound=bound,
        certificate=certificate,
    )


def shortfalls(columns: Columns, books: Books) -> list[tuple[int, str, int]]:
    """Limits that what is placed does not keep, with the instances missing (or too many, of a maximum)."""
    books.settle()
    served = sums(books.flows.app, books.flows.rps, columns.apps)
    found: list[tuple[int, str, int]] = []
    for at in [int(app) for app in np.union1d(broken(books), unsafe_apps(books, served))]:
        app = columns.problem.apps[at]
        counts = books.counts[at].astype(np.int64)
        total = int(counts.sum())
        if total < app.min_total:
            found.append((at, "min_total", app.min_total - total))
        if app.max_total is not None and total > app.max_total:
            found.append((at, "max_total", total - app.max_total))
        for entry in app.region_min:
            there = int(counts[columns.region(entry.region)].sum())
            found += [(at, "region_min", entry.count - there)] if there < entry.count else []
        if app.survive_sites > 0:
            need = int(np.ceil(served[at] / app.rps_per_instance - 1e-9))
            left = total - in_largest(counts, app.survive_sites)
            found += [(at, "survive_sites", need - left)] if left < need else []
    return found
