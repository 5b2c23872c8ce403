"""Draft to plan: every site within its sums, every limit that can be kept, and nodes that hold it all."""

import numpy as np

from skerry.core.placement.solve.arrays import upto
from skerry.core.placement.solve.ask import Ints
from skerry.core.placement.solve.batch import Market
from skerry.core.placement.solve.books import Books
from skerry.core.placement.solve.losses import make_room, reserve_for_losses
from skerry.core.placement.solve.packable import Counts, unpacked
from skerry.core.placement.solve.repair import (
    RELIEFS_MAX,
    TINY_RPS,
    broken,
    decide_anew,
    idle_where_full,
    important_first,
    relieve,
)

PACKINGS_MAX = 8


def repaired(books: Books, market: Market, *, make_way: bool = True) -> None:
    """Within the sums, with every limit that can be kept, and packable. `make_way`: others may leave for losses to survive."""
    for _ in range(RELIEFS_MAX):
        apart = relieve(books, market) if books.over().any() else upto(0)
        anew = np.unique(np.concatenate((apart, broken(books), idle_where_full(books))))
        decide_anew(books, market, important_first(books.columns, anew))
        if not books.over().any():
            break
    reserve_for_losses(books, market)
    within_nodes(books, market)
    if make_way:
        _with_others_away(books, market)


def _with_others_away(books: Books, market: Market) -> None:
    """Room for losses, where nodes can pack what comes of it and nobody is served less for it."""
    before = books.copied()
    lost = float(before.unserved.rps.sum())
    if make_room(books, market):
        within_nodes(books, market)
        books.settle()
        if float(books.unserved.rps.sum()) > lost * (1.0 + 1e-9) + TINY_RPS:
            books.restore(before)


def within_nodes(books: Books, market: Market, before: Counts | None = None) -> None:
    """What the nodes of a site cannot pack leaves it, and nothing more comes there. `before`: counts that can be packed."""
    for _ in range(PACKINGS_MAX):
        left = unpacked(books.columns, books.counts, grown(books.counts, before))
        sites = np.flatnonzero((left > 0.0).any(axis=1))
        if not len(sites):
            return
        books.closed[sites] = True
        books.free[sites] = np.minimum(books.free[sites], 0.0) - left[sites]
        for _ in range(RELIEFS_MAX):
            apart = np.union1d(relieve(books, market), idle_where_full(books))
            decide_anew(books, market, important_first(books.columns, np.union1d(apart, broken(books))))
            if not books.over().any():
                break
        reserve_for_losses(books, market)


def grown(counts: Counts, before: Counts | None) -> Ints | None:
    """Sites where more of some app runs than before; all of them where nothing is known."""
    return None if before is None else np.flatnonzero((counts > before).any(axis=0))
