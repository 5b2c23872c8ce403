"""From what apps want to what sites have: flows leave full sites where that costs least, and go to the next best with room.

full sites ─► flows by what the next site costs more ─► as many as are too many leave ─► rounds: each to its cheapest site with
room, where it is scarce those first to whom the next one costs most ─► apps whose limits broke decide anew in what is left
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from skerry.core.placement.solve.arrays import floats, ranked, sums, upto
from skerry.core.placement.solve.ask import Ints
from skerry.core.placement.solve.batch import Market, decide_app
from skerry.core.placement.solve.books import PLENTY, Books
from skerry.core.placement.solve.columns import KINDS, Columns
from skerry.core.placement.solve.costs import CHUNK, Costs, Small
from skerry.core.placement.solve.plan import Flows, merged, merged_unserved
from skerry.core.types.problem import PRIORITY_NEUTRAL, Bools, Floats

ROUNDS_MAX = 60
RELIEFS_MAX = 8  # rounds of repair; two are usual
TINY_RPS = 1e-9


@dataclass(frozen=True)
class Requests:
    """Demand that looks for a site."""

    app: Ints
    metro: Ints
    rps: Floats

    def at(self, rows: Ints) -> "Requests":
        return Requests(self.app[rows], self.metro[rows], self.rps[rows])


def relieve(books: Books, market: Market, stay: Ints | None = None) -> Ints:
    """Bring every site within its sums; the apps that could not follow (limits, idle instances) are returned to decide anew.

    Apps that `stay` leave no site; it may be too much then still.
    """
    books.settle()
    costs = Costs(books.columns, books.homes, market.shadow)
    evicted = _evict(books, costs, upto(0) if stay is None else stay)
    special = special_apps(books.columns)
    apart = np.unique(evicted.app[special[evicted.app]])
    place(books, costs, evicted.at(np.flatnonzero(~special[evicted.app])))
    return apart


def special_apps(columns: Columns) -> Bools:
    """[A]: whose limits a flow that moves can break, other than losses."""
    found = [app.max_total is not None or app.max_site is not None or app.min_site > 1 for app in columns.problem.apps]
    return np.array(found, dtype=np.bool_)


def _evict(books: Books, costs: Costs, stay: Ints) -> Requests:
    """Of every site that has too much: the flows that have the cheapest way out, the last one in part."""
    columns, flows = books.columns, books.flows
    over = books.over()
    rows = np.flatnonzero(over[flows.site] & ~np.isin(flows.app, stay))
    regret = np.zeros(len(rows))
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        cost = costs.of(flows.app[part], flows.metro[part])
        here = cost[upto(len(part)), flows.site[part]]
        cost[:, over] = np.inf
        if len(stay):  # nobody has to leave but for them: a full site is no way out either
            cost[_room(books, flows.app[part]) <= 0] = np.inf
        lost = columns.problem.weights.unserved * columns.priority[flows.app[part]] / PRIORITY_NEUTRAL
        regret[start : start + CHUNK] = np.minimum(cost.min(axis=1), lost) - here
    each = columns.reserve[flows.app[rows]] / columns.rate[flows.app[rows]][:, None]  # units per rps
    left = flows.rps.copy()
    for site in np.flatnonzero(over):
        mine = np.flatnonzero(flows.site[rows] == site)
        for kind in range(KINDS):
            excess = -float(books.free[site, kind]) - float(((flows.rps - left)[rows[mine]] * each[mine, kind]).sum())
            if excess <= 1e-6 or not len(mine):
                continue
            unit = each[mine, kind]
            order = mine[ranked(np.where(unit > 0.0, regret[mine] / np.maximum(unit, 1e-300), np.inf))]
            weight = left[rows[order]] * each[order, kind]
            before = np.concatenate((np.zeros(1), np.cumsum(weight)[:-1]))
            part = np.clip((excess - before) / np.maximum(weight, 1e-9), 0.0, 1.0)
            left[rows[order]] *= 1.0 - np.where(weight > 0.0, part, 0.0)
    return _shrink(books, rows, left)


def _shrink(books: Books, rows: Ints, left: Floats) -> Requests:
    """Take the flows down to `left` and the counts with them, whole instances at a time."""
    columns, flows = books.columns, books.flows
    sites = columns.sites
    keys = flows.app[rows] * sites + flows.site[rows]
    found, inverse = np.unique(keys, return_inverse=True)
    inverse = np.asarray(inverse, dtype=np.int64)
    loads = sums(inverse, flows.rps[rows], len(found))
    out = sums(inverse, (flows.rps - left)[rows], len(found))
    app, site = found // sites, found % sites
    rate = columns.rate[app]
    count = books.counts[app, site].astype(np.int64)
    fewer = np.ceil(out / rate - 1e-9).astype(np.int64)
    keep = np.maximum(0, count - fewer)
    stay = np.minimum(np.maximum(loads - out, 0.0), keep * rate)  # whole instances end: what they served goes as well
    part = np.where(loads - out > 0.0, stay / np.maximum(loads - out, 1e-300), 0.0)
    after = flows.rps.copy()
    after[rows] = left[rows] * part[inverse]
    gone = (flows.rps - after)[rows]
    books.counts[app, site] = keep
    change = floats((count - keep)[:, None] * columns.reserve[app])
    for kind in range(KINDS):
        books.free[:, kind] += sums(site, floats(change[:, kind]), sites)
    kept = np.flatnonzero(after > TINY_RPS)
    books.flows = Flows(flows.app[kept], flows.metro[kept], flows.site[kept], after[kept])
    out_rows = np.flatnonzero(gone > TINY_RPS)
    return Requests(flows.app[rows[out_rows]], flows.metro[rows[out_rows]], gone[out_rows])


def place(books: Books, costs: Costs, asked: Requests, allowed: Bools | None = None) -> None:
    """Find a site for each request: the important first, then those that take most. What finds none is not served.

    `allowed` [S]: only there. Instances start as they are needed; flows and counts in the books follow.
    """
    columns = books.columns
    loads = books.loads()
    order = np.lexsort((asked.metro, asked.app, -asked.rps, -columns.priority[asked.app]))
    waiting = asked.at(np.asarray(order, dtype=np.int64))
    parts: list[tuple[Requests, Ints]] = []
    lost: list[Requests] = []
    for start in range(0, len(waiting.app), CHUNK):
        rows = waiting.at(upto(len(waiting.app))[start : start + CHUNK])
        cost = costs.of(rows.app, rows.metro)
        if allowed is not None:
            cost[:, ~allowed] = np.inf
        placed, left = _place_chunk(books, loads, rows, cost)
        parts += placed
        lost.append(left)
    flows = books.flows
    merge = Flows(
        np.concatenate([flows.app, *(rows.app for rows, _ in parts)]),
        np.concatenate([flows.metro, *(rows.metro for rows, _ in parts)]),
        np.concatenate([flows.site, *(site for _, site in parts)]),
        np.concatenate([flows.rps, *(rows.rps for rows, _ in parts)]),
    )
    books.flows = merged(merge, columns)
    held = books.unserved
    books.unserved = merged_unserved(
        np.concatenate([held.app, *(rows.app for rows in lost)]),
        np.concatenate([held.metro, *(rows.metro for rows in lost)]),
        np.concatenate([held.rps, *(rows.rps for rows in lost)]),
        columns.rtt.shape[1],
    )


def _place_chunk(books: Books, loads: Floats, rows: Requests, cost: Small) -> tuple[list[tuple[Requests, Ints]], Requests]:
    """Rounds until all are placed or nothing has room."""
    columns = books.columns
    lost_at = columns.problem.weights.unserved * columns.priority / PRIORITY_NEUTRAL
    placed: list[tuple[Requests, Ints]] = []
    left: list[Requests] = []
    for _ in range(ROUNDS_MAX * columns.sites):
        if not len(rows.app):
            break
        spare = books.counts[rows.app] * columns.rate[rows.app][:, None] - loads[rows.app]
        room = _room(books, rows.app)
        view = np.where((spare > TINY_RPS) | (room > 0), cost, np.inf)
        best = view.argmin(axis=1)
        least = view[upto(len(best)), best]
        willing = least < lost_at[rows.app]
        if not willing.all():
            left.append(rows.at(np.flatnonzero(~willing)))
            keep = np.flatnonzero(willing)
            rows, cost, view, best, least, spare = rows.at(keep), cost[keep], view[keep], best[keep], least[keep], spare[keep]
            if not len(keep):
                break
        view[upto(len(best)), best] = np.inf
        regret = np.minimum(view.min(axis=1), lost_at[rows.app]) - least
        amount = _accept(books, loads, rows, best, regret)
        taken = np.flatnonzero(amount > TINY_RPS)
        placed.append((Requests(rows.app[taken], rows.metro[taken], amount[taken]), best[taken]))
        rest = np.flatnonzero(rows.rps - amount > TINY_RPS)
        rows = Requests(rows.app[rest], rows.metro[rest], (rows.rps - amount)[rest])
        cost = cost[rest]
    left.append(rows)
    return placed, Requests(
        np.concatenate([part.app for part in left]),
        np.concatenate([part.metro for part in left]),
        np.concatenate([part.rps for part in left]),
    )


def _room(books: Books, app: Ints) -> Ints:
    """[rows, S]: more instances of each row's app that the sums allow."""
    classes, inverse = np.unique(books.columns.reserve[app], axis=0, return_inverse=True)
    table = np.stack([np.maximum(0, books.more(reserve)) for reserve in classes])
    return table[np.asarray(inverse, dtype=np.int64).ravel()]


def _accept(books: Books, loads: Floats, rows: Requests, site: Ints, regret: Floats) -> Floats:
    """How much of each request its site takes: those first that have the worst second choice; counts and loads follow."""
    columns = books.columns
    rate = columns.rate[rows.app]
    order = np.asarray(np.lexsort((rows.metro, rows.app, -regret, site)), dtype=np.int64)
    app, at, rps, rate = rows.app[order], site[order], rows.rps[order], rate[order]
    spare = np.maximum(0.0, books.counts[app, at] * rate - loads[app, at])
    keys = app * columns.sites + at
    _, first = np.unique(keys, return_index=True)
    once = np.zeros(len(keys), dtype=np.bool_)
    once[first] = True
    spare = np.where(once, spare, 0.0)  # of several rows of one app at one site, the first uses what is idle
    need = np.ceil(np.maximum(0.0, rps - spare) / rate - 1e-9)
    fits = np.full(len(order), float(PLENTY))
    start = np.searchsorted(at, at)
    for kind in range(KINDS):
        reserve = columns.reserve[app, kind]
        total = np.cumsum(need * reserve)
        before = total - need * reserve - (total[start] - (need * reserve)[start])
        have = np.where(books.closed[at], 0.0, np.maximum(0.0, books.free[at, kind]))
        fits = np.where(reserve > 0.0, np.minimum(fits, np.floor((have - before) / np.maximum(reserve, 1e-300) + 1e-9)), fits)
    new = np.clip(np.minimum(need, fits), 0.0, None)
    amount = np.where(new >= need, rps, np.minimum(rps, spare + new * rate))  # what rounding leaves over needs no instance
    _book(books, loads, (app, at, amount))
    result = np.zeros(len(order))
    result[order] = amount
    return result


def _book(books: Books, loads: Floats, taken: tuple[Ints, Ints, Floats]) -> None:
    """Add the amounts to the loads; as many instances more as that takes."""
    columns = books.columns
    app, site, amount = taken
    np.add.at(loads, (app, site), amount)
    found = np.unique((app * columns.sites + site)[amount > 0.0])
    at_app, at_site = found // columns.sites, found % columns.sites
    need = np.ceil(loads[at_app, at_site] / columns.rate[at_app] - 1e-9).astype(np.int64)
    count = books.counts[at_app, at_site].astype(np.int64)
    after = np.maximum(count, need)
    books.counts[at_app, at_site] = after
    change = floats((after - count)[:, None] * columns.reserve[at_app])
    for kind in range(KINDS):
        books.free[:, kind] -= sums(at_site, floats(change[:, kind]), columns.sites)


def decide_anew(books: Books, market: Market, apps: Ints, *, only_better: Callable[[int, float], bool] | None = None) -> int:
    """Each of the apps again, in the room that is left; how many changed. `only_better`: asked with app and its new total."""
    changed = 0
    for app in [int(app) for app in apps]:
        one = decide_app(market, app, books.room(app))
        if only_better is None or only_better(app, one.total):
            books.decide(one)
            changed += 1
    return changed


def broken(books: Books) -> Ints:
    """Apps with a limit that what they hold does not keep, losses apart: totals, sites, regions."""
    totals, held = books.columns.totals, books.counts.sum(axis=1)
    wrong = (held < totals.least) | (held > totals.most)
    for app in totals.more_limits:
        wrong[app] = wrong[app] or _breaks(books, app, int(held[app]))
    return np.flatnonzero(wrong)


def is_broken(books: Books, app: int) -> bool:
    """As `broken`, of one app."""
    return _breaks(books, app, int(books.counts[app].sum()))


def _breaks(books: Books, app: int, total: int) -> bool:
    asked, counts = books.columns.problem.apps[app], books.counts[app]
    return (
        total < asked.min_total
        or (asked.max_total is not None and total > asked.max_total)
        or (asked.max_site is not None and int(counts.max(initial=0)) > asked.max_site)
        or (asked.min_site > 1 and bool(((counts > 0) & (counts < asked.min_site)).any()))
        or any(int(counts[books.columns.region(entry.region)].sum()) < entry.count for entry in asked.region_min)
    )


def important_first(columns: Columns, apps: Ints) -> Ints:
    """By priority, then by what they take, then by id."""
    taken = columns.reserve[apps, 0] / np.maximum(columns.capacity[:, 0].sum(), 1.0)
    return apps[np.lexsort((apps, -taken, -columns.priority[apps]))]


def idle_where_full(books: Books) -> Ints:
    """Apps with more instances than they need at sites that have too much."""
    over = np.flatnonzero(books.over())
    if not len(over):
        return upto(0)
    need = np.ceil(books.loads()[:, over] / books.columns.rate[:, None] - 1e-9)
    return np.flatnonzero((books.counts[:, over] > need).any(axis=1))
