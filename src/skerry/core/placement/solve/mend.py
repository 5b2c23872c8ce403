"""Draft to plan: every site within its sums, every limit that can be kept, and nodes that hold it all."""

import numpy as np

from skerry.core.placement.solve.arrays import upto
from skerry.core.placement.solve.ask import Ints
from skerry.core.placement.solve.batch import Market
from skerry.core.placement.solve.books import Books
from skerry.core.placement.solve.losses import reserve_for_losses
from skerry.core.placement.solve.packable import Counts, unpacked
from skerry.core.placement.solve.repair import (
    RELIEFS_MAX,
    broken,
    decide_anew,
    idle_where_full,
    important_first,
    relieve,
)

PACKINGS_MAX = 8


def repaired(books: Books, market: Market) -> None:
    """Within the sums, with every limit that can be kept in the room there is, and packable."""
    for _ in range(RELIEFS_MAX):
        apart = relieve(books, market) if books.over().any() else upto(0)
        anew = np.unique(np.concatenate((apart, broken(books), idle_where_full(books))))
        decide_anew(books, market, important_first(books.columns, anew))
        if not books.over().any():
            break
    reserve_for_losses(books, market)
    within_nodes(books, market)


def within_nodes(books: Books, market: Market, before: Counts | None = None, stay: Ints | None = None) -> None:
    """What the nodes of a site cannot pack leaves it, and nothing more comes there. `before`: counts that can be packed;
    apps that `stay` leave no site and decide nothing."""
    for _ in range(PACKINGS_MAX):
        left = unpacked(books.columns, books.counts, grown(books.counts, before))
        sites = np.flatnonzero((left > 0.0).any(axis=1))
        if not len(sites):
            return
        books.closed[sites] = True
        books.free[sites] = np.minimum(books.free[sites], -left[sites])
        for _ in range(RELIEFS_MAX):
            apart = np.union1d(relieve(books, market, stay), idle_where_full(books))
            apart = np.setdiff1d(np.union1d(apart, broken(books)), stay if stay is not None else upto(0))
            decide_anew(books, market, important_first(books.columns, apart))
            if not books.over().any():
                break
        reserve_for_losses(books, market)


def grown(counts: Counts, before: Counts | None) -> Ints | None:
    """Sites where more of some app runs than before; all of them where nothing is known."""
    return None if before is None else np.flatnonzero((counts > before).any(axis=0))
