"""Apps whose limits find no room take it from others, and those from others again, as far as that leads to more limits kept.

who is short ─► claims, as if a part of what runs elsewhere were gone ─► others leave; who claims stays ─► nodes packed
      ▲                                                                                                       │
      └────────────────────────── who is short now, or served less than before ◄─────────────────────────────┘

A chain counts only where all it ends with can be packed, nobody is served less and fewer apps are short; else all is as it was.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from skerry.core.placement.solve.arrays import sums
from skerry.core.placement.solve.ask import Ints
from skerry.core.placement.solve.batch import Market, decide_app
from skerry.core.placement.solve.books import Books
from skerry.core.placement.solve.losses import reserved, unsafe_apps
from skerry.core.placement.solve.mend import within_nodes
from skerry.core.placement.solve.packable import unpacked
from skerry.core.placement.solve.repair import TINY_RPS, broken, important_first, is_broken
from skerry.core.types.problem import Floats

LINKS_MAX = 6  # of a chain
ALONE_MAX = 8  # apps that begin a chain each, where all together do not get on
GIVEN_UP = (0.5, 1.0)  # of what others hold at a site may have to leave it
ROOMY = 0.02  # of a site's sums free: it was closed when its nodes were full, and others have left since


def exchanged(books: Books, market: Market) -> None:
    """As few apps short as chains of others that leave can bring about. Costs nothing where none is."""
    lost = _unserved(books)
    short = _short(books, lost)
    while len(short) and _one_chain(books, market, short, lost):
        short = _short(books, lost)


def _one_chain(books: Books, market: Market, short: Ints, lost: Floats) -> bool:
    before = books.copied()
    for claiming in _beginnings(short):
        for given_up in GIVEN_UP:
            if _chained(_Chain(books, market, lost, given_up, len(short)), claiming):
                return True
            books.restore(before)
    return False


def _beginnings(short: Ints) -> Iterator[Ints]:
    """All of them, the more important half, and so on; then one by one."""
    some = short
    while len(some):
        yield some
        some = some[: len(some) // 2]
    for app in short[1:ALONE_MAX]:
        yield np.array([app], dtype=np.int64)


@dataclass(frozen=True)
class _Chain:
    books: Books
    market: Market
    lost: Floats  # [A] rps that nobody served before
    given_up: float
    short: int  # apps, before


def _chained(chain: _Chain, claiming: Ints) -> bool:
    """Whether fewer apps are short in the end."""
    books, stay = chain.books, claiming[:0]
    _reopen(books)
    for _ in range(LINKS_MAX):
        before = len(stay)
        for app in claiming.tolist():
            stay = np.union1d(stay, [app]) if _claim(chain, app, stay) else stay
        if len(stay) == before:
            return False
        within_nodes(books, chain.market, stay=stay)
        claiming = _short(books, chain.lost)
        if len(claiming) < chain.short and _all_fits(books) and not _less_served(books, chain.lost).any():
            return True
    return False


def _reopen(books: Books) -> None:
    columns = books.columns
    books.free = books.free_of_sums()
    roomy = (books.free > ROOMY * columns.capacity).all(axis=1)
    books.closed[roomy] = False


def _claim(chain: _Chain, app: int, stay: Ints) -> bool:
    """Instances that keep the app's limits and serve what it served, as if others had left already; whether there are any."""
    books, columns = chain.books, chain.books.columns
    room, room_now = _claimed_room(chain, app, stay), books.room(app)
    books.settle()
    if not is_broken(books, app) and not _less_served(books, chain.lost)[app]:
        price = (columns.price + chain.market.shadow) @ columns.reserve[app]
        served = float(books.flows.rps[books.flows.app == app].sum())
        return reserved(books, app, served, price, room)
    careful = replace(chain.market, losses=True)
    regions = [columns.region(entry.region) for entry in columns.problem.apps[app].region_min]
    inside = np.any(regions, axis=0) if regions else np.zeros(columns.sites, dtype=np.bool_)
    for tried in (np.where(inside, room, room_now), room):
        one = decide_app(careful, app, tried)
        if not one.short and float(one.state.pieces.unserved.sum()) <= chain.lost[app] + TINY_RPS:
            books.decide(one)
            return True
    return False


def _claimed_room(chain: _Chain, app: int, stay: Ints) -> Ints:
    """[S]: what is free, and a part of what others hold that may leave."""
    books, columns = chain.books, chain.books.columns
    reserve, own = columns.reserve[app], books.counts[app].astype(np.int64)
    held = columns.capacity - books.free_of_sums()
    kept = books.counts[np.union1d(stay, [app])].T @ columns.reserve[np.union1d(stay, [app])]
    free = np.where(books.closed[:, None], 0.0, np.maximum(books.free, 0.0))
    more = books.holds(reserve, np.minimum(free + chain.given_up * (held - kept), columns.capacity - kept))
    return np.minimum(own + np.maximum(more, 0), columns.room(app))


def _short(books: Books, lost: Floats) -> Ints:
    """Apps that are short or served less than before; the important ones first."""
    found = np.union1d(apps_short(books), np.flatnonzero(_less_served(books, lost)))
    return important_first(books.columns, found)


def apps_short(books: Books) -> Ints:
    """Apps with a limit that is not kept."""
    books.settle()
    served = sums(books.flows.app, books.flows.rps, books.columns.apps)
    return np.union1d(broken(books), unsafe_apps(books, served))


def _unserved(books: Books) -> Floats:
    """[A] rps."""
    books.settle()
    return sums(books.unserved.app, books.unserved.rps, books.columns.apps)


def _less_served(books: Books, lost: Floats) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
    """[A]"""
    return _unserved(books) > lost * (1.0 + 1e-9) + TINY_RPS


def _all_fits(books: Books) -> bool:
    return not unpacked(books.columns, books.counts).any()
