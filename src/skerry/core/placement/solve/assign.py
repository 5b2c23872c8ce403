"""Who is served where, once it is decided how much each site can serve."""

from dataclasses import dataclass

import numpy as np

from skerry.core.placement.solve.arrays import sums, upto
from skerry.core.placement.solve.ask import Ints
from skerry.core.types.problem import Floats

TINY_RPS = 1e-9  # below this a remainder is rounding


@dataclass(frozen=True)
class Pieces:
    """Flows as columns (site, metro, rps), and what found no site. Rows are those of the cost matrix they were made from."""

    site: Ints
    metro: Ints
    rps: Floats
    unserved: Floats  # [metros]
    cost: float  # Σ rps · cost, what is unserved included

    def loads(self, sites: int) -> Floats:
        return sums(self.site, self.rps, sites)


def assign(cost: Floats, demand: Floats, capacity: Floats, unserved: float) -> Pieces:
    """Serve every metro at its cheapest site; where that overflows, those stay to whom the next site costs most.

    cost[site, metro] in J per rps, demand[metro] and capacity[site] in rps; serving for more than `unserved` J per rps is not
    worth it. Exact when no site overflows, else a heuristic that leaves no demand beside free capacity.
    """
    sites, metros = cost.shape
    if not sites or not metros:
        return Pieces(_none(), _none(), np.empty(0), demand.copy(), float(demand.sum()) * unserved)
    every = upto(metros)
    best = cost.argmin(axis=0)
    least = cost[best, every]
    served = least < unserved
    loads = sums(best[served], demand[served], sites)
    if np.all(loads <= capacity + TINY_RPS):
        where = every[served]
        left = np.where(served, 0.0, demand)
        total = float(demand[served] @ least[served]) + float(left.sum()) * unserved
        return Pieces(best[served], where, demand[served], left, total)
    return _assign_tight(cost, demand, capacity, unserved)


def _assign_tight(cost: Floats, demand: Floats, capacity: Floats, unserved: float) -> Pieces:
    """Rounds: all that is left goes to the cheapest site that has room; a site that fills keeps the dearest to move."""
    free = capacity.copy()
    left = demand.copy()
    open_cost = np.where(free[:, None] > TINY_RPS, cost, np.inf)
    parts: list[tuple[Ints, Ints, Floats]] = []
    for _ in range(cost.shape[0] + 1):
        waiting = np.flatnonzero(left > TINY_RPS)
        if not len(waiting):
            break
        view = open_cost[:, waiting]
        best = view.argmin(axis=0)
        least = view[best, upto(len(waiting))]
        willing = least < unserved
        if not willing.any():
            break
        waiting, best, least, view = waiting[willing], best[willing], least[willing], view[:, willing]
        amount = _admitted(view, best, left[waiting], free, unserved)
        parts.append((best, waiting, amount))
        left[waiting] -= amount
        free -= sums(best, amount, len(free))
        full = free <= TINY_RPS
        open_cost[full] = np.inf
    return _joined(cost, parts, np.where(left > TINY_RPS, left, 0.0), unserved)


def _admitted(view: Floats, best: Ints, wish: Floats, free: Floats, unserved: float) -> Floats:
    """How much of each wish its site takes now."""
    full = np.flatnonzero((sums(best, wish, len(free)) > free)[best])
    if not len(full):
        return wish
    others = view[:, full]
    here = others[best[full], upto(len(full))]
    others[best[full], upto(len(full))] = np.inf  # a copy: made by indexing with an array
    regret = np.minimum(others.min(axis=0), unserved) - here
    order = full[np.lexsort((full, -regret, best[full]))]
    site, rps = best[order], wish[order]
    total = np.cumsum(rps)
    before = total - rps
    first = np.searchsorted(site, site)
    amount = wish.copy()
    amount[order] = np.clip(free[site] - (before - before[first]), 0.0, rps)
    return amount


def _joined(cost: Floats, parts: list[tuple[Ints, Ints, Floats]], left: Floats, unserved: float) -> Pieces:
    if not parts:
        return Pieces(_none(), _none(), np.empty(0), left, float(left.sum()) * unserved)
    rps = np.concatenate([amount for _, _, amount in parts])
    there = rps > 0.0
    rps = rps[there]
    site = np.concatenate([best for best, _, _ in parts])[there]
    metro = np.concatenate([waiting for _, waiting, _ in parts])[there]
    return Pieces(site, metro, rps, left, float(rps @ cost[site, metro]) + float(left.sum()) * unserved)


def _none() -> Ints:
    return np.empty(0, dtype=np.int64)
