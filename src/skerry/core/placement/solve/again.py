"""Deciding again: only what changed, at the prices there are; and, in the background, what gains most for few moves.

what the solution says ─► sites that may not run what they run, apps whose demand or intent changed ─► flows to the next best site
with room, changed apps anew ─► limits ─► Solution without a new proof
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from skerry.core.placement.solve.arrays import floats, ranked, sums, upto
from skerry.core.placement.solve.ask import Ints
from skerry.core.placement.solve.batch import Market, decide_app
from skerry.core.placement.solve.books import Books
from skerry.core.placement.solve.columns import Columns, make_columns
from skerry.core.placement.solve.plan import Draft, Flows, Unserved, pair_apps
from skerry.core.placement.solve.repair import (
    CHUNK,
    Costs,
    Requests,
    broken,
    decide_anew,
    important_first,
    place,
    reserve_for_losses,
    within_nodes,
)
from skerry.core.placement.solve.solution import Solution, app_totals, in_callers_order
from skerry.core.types.problem import Floats, Problem

SAME_DEMAND = 1e-9  # of an app's demand: less is rounding


@dataclass(frozen=True)
class Budget:
    """What a background pass may do."""

    moves: int = 100  # instances started and stopped in all
    gain_min: float = 50.0  # J per move: a move has to bring so much more than w.move
    looked_at: int = 500  # apps, those first that may gain most


def place_again(problem: Problem, solution: Solution, apps: Sequence[int] = ()) -> Solution:
    """The solution brought up to date with a problem whose sites, metros and apps have the same ids in the same order.

    Noticed by itself: sites that may no longer run what they run, or have less than it needs, and demand that is not what is
    served. `apps`: whose intent changed. Nothing else moves; nothing changed: the same instances. Raises ValueError where the
    rows do not match.
    """
    columns = _columns(problem, solution)
    books = _books(columns, solution)
    market = Market.at(columns, books.homes, _shadow(columns, solution), losses=False)
    inverse = _inverse(columns.order.apps)
    changed = np.union1d(_changed_demand(columns, books), inverse[np.array(list(apps), dtype=np.int64)])
    before = books.counts.copy()
    gone = _gone(columns, books, changed)
    if not len(changed) and np.array_equal(before, books.counts) and not books.over().any():
        return in_callers_order(columns, books, market.shadow)
    if len(gone.app):
        place(books, Costs(columns, books.homes, market.shadow), gone)
    decide_anew(books, market, important_first(columns, np.union1d(changed, broken(books))))
    reserve_for_losses(books, market)
    within_nodes(books, market)
    return in_callers_order(columns, books, market.shadow)


def rebalance(problem: Problem, solution: Solution, budget: Budget | None = None) -> Solution:
    """Apps that gain most decide again, within the budget of moves and never without its least gain."""
    budget = budget or Budget()
    columns = _columns(problem, solution)
    books = _books(columns, solution)
    market = Market.at(columns, books.homes, _shadow(columns, solution), losses=False)
    total = app_totals(columns, books) + floats(((books.counts @ market.shadow) * columns.reserve).sum(axis=1))
    left = budget.moves
    for app in [int(app) for app in ranked(-_could_gain(columns, books, market), budget.looked_at)]:
        one = decide_app(market, app, books.room(app))
        counts = np.zeros(columns.sites, dtype=np.int64)
        counts[one.desk.columns[one.state.sites]] = one.state.counts
        moved = int(np.abs(counts - books.counts[app]).sum())
        if 0 < moved <= left and not one.short and one.total < total[app] - budget.gain_min * moved:
            books.decide(one)
            left -= moved
    reserve_for_losses(books, market)
    return in_callers_order(columns, books, market.shadow)


def _could_gain(columns: Columns, books: Books, market: Market) -> Floats:
    """[A]: what an app's requests cost above the cheapest site each, at the prices, whether there is room or not."""
    flows = books.flows
    costs = Costs(columns, books.homes, market.shadow)
    above = np.zeros(len(flows.app))
    for start in range(0, len(above), CHUNK):
        part = slice(start, start + CHUNK)
        cost = costs.of(flows.app[part], flows.metro[part])
        above[part] = cost[upto(len(cost)), flows.site[part]] - cost.min(axis=1)
    above = np.where(np.isfinite(above), above, 0.0)
    return sums(flows.app, flows.rps * above, columns.apps)


def _columns(problem: Problem, solution: Solution) -> Columns:
    fine = (
        solution.shadow.shape[0] == len(problem.sites)
        and (not len(solution.instances.app) or int(solution.instances.app.max()) < len(problem.apps))
        and len(solution.homes) == len(problem.data)
    )
    if not fine:
        raise ValueError("the solution is of another world: its sites, apps or data are not those of the problem")
    return make_columns(problem, solution.instances)


def _books(columns: Columns, solution: Solution) -> Books:
    order = columns.order
    apps, sites, metros, data = (_inverse(rows) for rows in (order.apps, order.sites, order.metros, order.data))
    flows, lost = solution.flows, solution.unserved
    flow = (apps[flows.app], metros[flows.metro], sites[flows.site])
    rows = np.lexsort((flow[2], flow[1], flow[0]))
    out = (apps[lost.app], metros[lost.metro])
    out_rows = np.lexsort((out[1], out[0]))
    homes = np.empty(len(solution.homes), dtype=np.int64)
    homes[data] = sites[solution.homes]
    return Books(
        columns,
        Draft(
            columns.now,
            Flows(flow[0][rows], flow[1][rows], flow[2][rows], flows.rps[rows]),
            Unserved(out[0][out_rows], out[1][out_rows], lost.rps[out_rows]),
            homes,
        ),
    )


def _inverse(order: Ints) -> Ints:
    found = np.empty(len(order), dtype=np.int64)
    found[order] = upto(len(order))
    return found


def _shadow(columns: Columns, solution: Solution) -> Floats:
    return solution.shadow[columns.order.sites]


def _changed_demand(columns: Columns, books: Books) -> Ints:
    """Apps for which what is served and what is not do not add up to what is asked, metro by metro."""
    metros = columns.rtt.shape[1]
    demand = columns.problem.demand
    size = columns.apps * metros
    asked = sums(pair_apps(columns) * metros + demand.metro.astype(np.int64), demand.rps, size)
    given = sums(books.flows.app * metros + books.flows.metro, books.flows.rps, size)
    given += sums(books.unserved.app * metros + books.unserved.metro, books.unserved.rps, size)
    off = np.abs(asked - given).reshape(columns.apps, metros).sum(axis=1)
    return np.flatnonzero(off > SAME_DEMAND * (1.0 + asked.reshape(columns.apps, metros).sum(axis=1)))


def _gone(columns: Columns, books: Books, changed: Ints) -> Requests:
    """Instances end where they may not be any more; what they served looks for another site, but of apps that decide anew."""
    held_app, held_site = np.nonzero(books.counts)
    forbidden = ~columns.allowed[columns.policy_of[held_app], held_site]
    app, site = held_app[forbidden], held_site[forbidden]
    reserve = columns.reserve[app] * books.counts[app, site][:, None]
    for kind in range(reserve.shape[1]):
        books.free[:, kind] += sums(site.astype(np.int64), floats(reserve[:, kind]), columns.sites)
    books.counts[app, site] = 0
    flows = books.flows
    ends = ~columns.allowed[columns.policy_of[flows.app], flows.site]
    rows, rest = np.flatnonzero(ends), np.flatnonzero(~ends)
    books.flows = Flows(flows.app[rest], flows.metro[rest], flows.site[rest], flows.rps[rest])
    leaving = Requests(flows.app[rows], flows.metro[rows], flows.rps[rows])
    return leaving.at(np.flatnonzero(~np.isin(leaving.app, changed)))
