"""Deciding again: only what changed, at the prices there are.

what the solution says ─► sites that may not run what they run, apps whose demand or intent changed ─► flows to the next best site
with room, changed apps anew ─► limits ─► Solution without a new proof
"""

from collections.abc import Sequence
from functools import partial

import numpy as np

from skerry.core.placement.solve.arrays import floats, joined, ordered, sums, upto
from skerry.core.placement.solve.ask import Ints
from skerry.core.placement.solve.batch import Market, app_parts, prove_part
from skerry.core.placement.solve.books import Books
from skerry.core.placement.solve.certify import Prover
from skerry.core.placement.solve.columns import Columns, make_columns
from skerry.core.placement.solve.costs import Costs
from skerry.core.placement.solve.losses import reserve_for_losses
from skerry.core.placement.solve.mend import grown, repaired, within_nodes
from skerry.core.placement.solve.packable import Counts, unpacked
from skerry.core.placement.solve.plan import Draft, Flows, Unserved, pair_apps
from skerry.core.placement.solve.repair import Requests, broken, decide_anew, important_first, place
from skerry.core.placement.solve.solution import Solution, certified, in_callers_order
from skerry.core.placement.solve.spread import Spread
from skerry.core.types.problem import Floats, Problem

SAME_DEMAND = 1e-9  # of an app's demand: less is rounding


def place_again(problem: Problem, solution: Solution, apps: Sequence[int] = ()) -> Solution:
    """The solution brought up to date with a problem whose sites, metros and apps have the same ids in the same order.

    Noticed by itself: sites that may no longer run what they run (data of an app's own leaves them with it) or have less than it
    needs, and demand that is not what is served. `apps`: whose intent changed. Nothing else moves; nothing changed: the same
    instances. Raises ValueError where the rows do not match.
    """
    columns = columns_of(problem, solution)
    books = books_of(columns, solution)
    market = Market.at(columns, books.homes, shadow_of(columns, solution), losses=False)
    place_of = inverse(columns.order.apps)
    changed = np.union1d(_changed_demand(columns, books), place_of[np.array(list(apps), dtype=np.int64)])
    before, homeless = books.counts.copy(), _homeless(columns, books)
    gone = _gone(columns, books, changed)
    short = bool(books.over().any())
    if not len(changed) and np.array_equal(before, books.counts) and not short:
        return in_callers_order(columns, books, market.shadow)
    if len(gone.app):
        place(books, Costs(columns, books.homes, market.shadow, apps=gone.app), gone)
    anew = np.unique(joined([changed, broken(books), homeless]))
    decide_anew(books, market, important_first(columns, anew))
    if short:
        repaired(books, market)  # what ran can be packed no longer: every site is looked at
    else:
        reserve_for_losses(books, market)
        if _gave_back(books, before):
            within_nodes(books, market, before)
    return in_callers_order(columns, books, market.shadow)


def proven_again(problem: Problem, before: Solution, after: Solution, spread: Spread = map) -> Solution:
    """`after`, which was made from `before`: its moves counted from there, and a bound on all plans from there at its prices."""
    columns = columns_of(problem, before)
    shadow = shadow_of(columns, after)
    homes = inverse(columns.order.sites)[after.homes][columns.order.data]
    prover = Market.at(columns, columns.homes_now, shadow)
    parts = app_parts(columns)
    proofs = list(spread(partial(prove_part, prover, homes), parts))
    whole = Prover(columns, upto(0), spread, parts)
    whole.start(prover, proofs)
    return in_callers_order(columns, books_of(columns_of(problem, after), after), shadow, certified(columns, whole.proven()))


def _gave_back(books: Books, before: Counts) -> bool:
    """Where nodes cannot pack what came, idle instances that came end again, before anybody leaves who was there. False: they
    can pack everything."""
    sites = np.flatnonzero((unpacked(books.columns, books.counts, grown(books.counts, before)) > 0.0).any(axis=1))
    if not len(sites):
        return False
    books.closed[sites] = True
    need = np.ceil(books.loads()[:, sites] / books.columns.rate[:, None] - 1e-9)
    kept = np.minimum(books.counts[:, sites], np.maximum(before[:, sites], need).astype(np.int64))
    for app in np.flatnonzero((kept < books.counts[:, sites]).any(axis=1)).tolist():
        counts = books.counts[app].astype(np.int64)
        counts[sites] = kept[app]
        books.set_counts(app, counts)
    return True


def columns_of(problem: Problem, solution: Solution) -> Columns:
    fine = (
        solution.shadow.shape[0] == len(problem.sites)
        and (not len(solution.instances.app) or int(solution.instances.app.max()) < len(problem.apps))
        and len(solution.homes) == len(problem.data)
    )
    if not fine:
        raise ValueError("the solution is of another world: its sites, apps or data are not those of the problem")
    return make_columns(problem, solution.instances)


def books_of(columns: Columns, solution: Solution) -> Books:
    order = columns.order
    apps, sites, metros, data = (inverse(rows) for rows in (order.apps, order.sites, order.metros, order.data))
    flows, lost = solution.flows, solution.unserved
    flow = (apps[flows.app], metros[flows.metro], sites[flows.site])
    rows = ordered(flow[0], flow[1], flow[2])
    out = (apps[lost.app], metros[lost.metro])
    out_rows = ordered(out[0], out[1])
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


def inverse(order: Ints) -> Ints:
    found = np.empty(len(order), dtype=np.int64)
    found[order] = upto(len(order))
    return found


def shadow_of(columns: Columns, solution: Solution) -> Floats:
    return solution.shadow[columns.order.sites]


def _changed_demand(columns: Columns, books: Books) -> Ints:
    """Apps for which what is served and what is not do not add up to what is asked, metro by metro."""
    metros, demand = columns.rtt.shape[1], columns.problem.demand
    pairs = pair_apps(columns) * metros + demand.metro.astype(np.int64)  # ascending
    off, strange = demand.rps.copy(), np.zeros(columns.apps, dtype=np.bool_)
    for rows in (books.flows, books.unserved):
        keys = rows.app * metros + rows.metro
        at = np.asarray(np.searchsorted(pairs, keys), dtype=np.int64).clip(0, max(0, len(pairs) - 1))
        known = pairs[at] == keys if len(pairs) else np.zeros(len(keys), dtype=np.bool_)
        off -= sums(at[known], rows.rps[known], len(pairs))
        strange[rows.app[~known]] = True
    asked = sums(pairs // metros, demand.rps, columns.apps)
    wrong = sums(pairs // metros, np.abs(off), columns.apps)
    return np.flatnonzero(strange | (wrong > SAME_DEMAND * (1.0 + asked)))


def _homeless(columns: Columns, books: Books) -> Ints:
    """Apps that leave a site where data of their own may not stay either: they decide anew, and it goes along."""
    app, data, _ = columns.calls
    gone = ~columns.home_sites[books.homes]
    callers = np.unique(app[gone[data]])
    found = callers[np.array([gone[columns.own[at]].any() for at in callers.tolist()], dtype=np.bool_)]
    leave = (books.counts[found] > 0) & ~columns.allowed[columns.policy_of[found]]
    return found[leave.any(axis=1)]


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
