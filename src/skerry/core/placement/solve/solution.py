"""The record of a whole decision, in the order of the problem it answers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from skerry.core.placement.solve.arrays import floats, sums
from skerry.core.placement.solve.ask import Ints
from skerry.core.placement.solve.batch import Market, Part
from skerry.core.placement.solve.books import Books
from skerry.core.placement.solve.bound import SAFETY
from skerry.core.placement.solve.columns import Columns, Instances, per_node
from skerry.core.placement.solve.plan import Flows, Terms, Unserved, serve_of, terms_of
from skerry.core.types.plan import Reason
from skerry.core.types.problem import PRIORITY_NEUTRAL, Floats


@dataclass(frozen=True)
class Certificate:
    """What proves a bound: shadow prices of sites and, where they say more than those alone, metro prices of apps.

    bound = Σ_app least(app) − Σ site_price · capacity, where least(app) needs nothing but these prices (see `bound`).
    """

    site_price: Floats  # [S, (cpu_millicores, memory_mib, disk_mib)] J per unit
    metro_price: Floats  # per row of the problem's demand, J per rps; nan: the cheapest site by the request
    count_price: Floats  # [A, (max_total, min_total)] J per instance
    least: Floats  # [A] J, shadow prices included


@dataclass(frozen=True)
class Solution:
    """Instances, flows, what is not served and homes; what it costs, and at most how far it is from the best.

    Indices are those of the problem. `bound` and `certificate` are None for a plan that was changed since it was proven.
    `rejected[app]` has a reason for every site that does not run the app.
    """

    instances: Instances
    flows: Flows
    unserved: Unserved
    homes: Ints  # [data] site
    objective: Terms
    short: tuple[tuple[int, str, int], ...]  # app, limit, instances missing
    shadow: Floats  # [S, KINDS] the prices it was decided at
    bound: float | None = None
    certificate: Certificate | None = None

    @property
    def gap(self) -> float | None:
        """(J − bound) / bound; None without a bound above 0."""
        return None if self.bound is None or self.bound <= 0.0 else (self.objective.total - self.bound) / self.bound


def instances_of(solution: Solution) -> Instances:
    """What runs, as `now` of the next decision."""
    return solution.instances


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


def finished(columns: Columns, books: Books, market: Market, parts: Sequence[Part]) -> Solution:
    """The solution in the caller's order, with its bound."""
    least = np.zeros(columns.apps)
    metro_price = np.full(len(columns.problem.demand.rps), np.nan)
    count_price = np.zeros((columns.apps, 2))
    for part in parts:
        least[part.apps] = part.bound
        for app, dual in zip([int(app) for app in part.apps], part.duals, strict=True):
            if dual is not None and not len(columns.loose[app]):
                start = int(columns.problem.demand.start[app])
                metro_price[start : start + len(dual.metro_price)] = dual.metro_price
                count_price[app] = dual.count_price
    used = columns.capacity * market.shadow
    bound = float(least.sum()) - float(used.sum())
    bound -= SAFETY * (float(np.abs(least).sum()) + float(used.sum()))
    order = columns.order
    by_caller = np.empty_like(metro_price)
    by_caller[order.pairs] = metro_price
    certificate = Certificate(
        site_price=_placed(market.shadow, order.sites),
        metro_price=by_caller,
        count_price=_placed(count_price, order.apps),
        least=_placed(least, order.apps),
    )
    return in_callers_order(columns, books, market.shadow, (bound, certificate))


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
    rows = np.lexsort((site, app))
    flow = (order.apps[flows.app], order.metros[flows.metro], order.sites[flows.site])
    flow_rows = np.lexsort((flow[2], flow[1], flow[0]))
    out = (order.apps[lost.app], order.metros[lost.metro])
    out_rows = np.lexsort((out[1], out[0]))
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
    for at, app in enumerate(columns.problem.apps):
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
            left = total - int(np.sort(counts)[::-1][: app.survive_sites].sum())
            found += [(at, "survive_sites", need - left)] if left < need else []
    return found


def rejections(columns: Columns, books: Books, app: int) -> dict[int, Reason]:
    """Why each site (our index) does not run the app, where that is more than cost."""
    found: dict[int, Reason] = {}
    policy = columns.policy[int(columns.policy_of[app])]
    fits = per_node(columns.node, columns.reserve[app]) > 0
    more = books.more(columns.reserve[app]) > 0
    for site in [int(site) for site in np.flatnonzero(books.counts[app] == 0)]:
        why = policy[site]
        if why is None:
            why = Reason.TOO_LARGE if not fits[site] else Reason.NO_CAPACITY if not more[site] else None
        if why is not None:
            found[site] = why
    return found
