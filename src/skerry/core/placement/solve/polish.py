"""The last word in a small world: each app decides again in the room there really is, while that lowers J.

Prices say what room is worth to many. Among few, one that is in another's way may cost more, or less, than any price says; and
instances for losses have no price at all. Every step keeps the limits of the app that takes it, and can be packed.
"""

from dataclasses import replace

import numpy as np

from skerry.core.placement.solve.arrays import ranked, upto
from skerry.core.placement.solve.batch import Market, decide_app
from skerry.core.placement.solve.books import Books
from skerry.core.placement.solve.exchange import apps_short
from skerry.core.placement.solve.packable import unpacked
from skerry.core.placement.solve.solution import app_totals

GAIN_MIN = 1e-6  # of an app's J: less is rounding
ROUNDS_MAX = 10  # in which everybody decides once; three are usual


def polished(books: Books, market: Market) -> None:
    """Those first that cost most; apps that are short stay as they are."""
    columns = books.columns
    books.free, books.closed = books.free_of_sums(), np.zeros_like(books.closed)
    total, apps = app_totals(columns, books), np.delete(upto(columns.apps), apps_short(books))
    for _ in range(ROUNDS_MAX):
        order = apps[ranked(-total[apps])]
        gains = np.array([_gain(books, market, app, float(total[app])) for app in order.tolist()])
        total[order] -= gains
        if not gains.any():
            break


def _gain(books: Books, market: Market, app: int, total: float) -> float:
    """What J falls by where the app has a better place; the books follow. 0: it stays."""
    unpriced = replace(
        market, homes=books.homes, shadow=np.zeros_like(market.shadow), settled=np.zeros_like(market.settled), losses=True
    )
    one = decide_app(unpriced, app, books.room(app))
    if one.short or one.total >= total - GAIN_MIN * abs(total):
        return 0.0
    before, free = books.counts[app].astype(np.int64), books.free.copy()
    counts = one.counts(books.columns.sites)
    books.set_counts(app, counts)
    if unpacked(books.columns, books.counts, np.flatnonzero(counts > before)).any():
        books.set_counts(app, before)
        books.free = free
        return 0.0
    books.decide(one)
    return total - one.total
