"""Apps whose limits find no room take it from others, and those from others again, as far as that leads to more limits kept.

who is short ─► claims, as if a part of what runs elsewhere were gone ─► others leave; who claims stays ─► nodes packed
      ▲                                                                                                       │
      └────────────────────────── who is short now, or served less than before ◄─────────────────────────────┘

A chain counts only where all it ends with can be packed, nobody is served less and fewer apps are short; else all is as it was.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice, product

import numpy as np

from skerry.core.placement.solve.arrays import floats, sums
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
TRIED_LEAST = 6  # chains in a large world, where each takes seconds;
TRIED_CELLS = 20_000_000  # in smaller ones so many by their apps times sites
ROOMY = 0.02  # of a site's sums free: it was closed when its nodes were full, and others have left since


def exchanged(books: Books, market: Market) -> None:
    """As few apps short as chains of others that leave can bring about. Costs nothing where none is."""
    lost = _unserved(books)
    short = _short(books, lost)
    left = max(TRIED_LEAST, TRIED_CELLS // max(1, books.counts.size))
    while len(short) and left > 0:
        before = books.copied()
        for claiming, given_up in islice(product(_beginnings(short), GIVEN_UP), left):
            left -= 1
            if _chained(_Chain(books, market, lost, given_up, len(short)), claiming):
                break
            books.restore(before)
        else:
            return
        short = _short(books, lost)


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
        claimed = _claimed(chain, claiming, stay)
        if not claimed:
            return False
        stay = np.union1d(stay, claimed)
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


def _claimed(chain: _Chain, apps: Ints, stay: Ints) -> list[int]:
    """Each takes what keeps its limits and serves what it served, as if others had left already; those that found anything."""
    books, columns = chain.books, chain.books.columns
    served = sums(books.flows.app, books.flows.rps, columns.apps)
    less, price = _less_served(books, chain.lost), columns.price + chain.market.shadow
    hidden = books.free_of_sums() - books.free  # what nodes cannot hold, though the sums say so
    kept = floats(books.counts[stay].T @ columns.reserve[stay])
    found: list[int] = []
    for app in apps.tolist():
        others = kept - _held(books, app) if app in stay else kept
        room = _claimable(chain, app, others, hidden)
        if is_broken(books, app) or less[app]:
            fine = _decided(chain, app, room)
        else:
            fine = reserved(books, app, float(served[app]), price @ columns.reserve[app], room)
        if fine:
            found.append(app)
            kept = others + _held(books, app)
    return found


def _decided(chain: _Chain, app: int, room: Ints) -> bool:
    """Anew, where need be in the room of others: in the regions that ask for instances, or anywhere."""
    books, columns = chain.books, chain.books.columns
    careful = replace(chain.market, losses=True)
    regions = [columns.region(entry.region) for entry in columns.problem.apps[app].region_min]
    inside = np.any(regions, axis=0) if regions else np.zeros(columns.sites, dtype=np.bool_)
    for tried in (np.where(inside, room, books.room(app)), room):
        one = decide_app(careful, app, tried)
        if not one.short and float(one.state.pieces.unserved.sum()) <= chain.lost[app] + TINY_RPS:
            books.decide(one)
            return True
    return False


def _claimable(chain: _Chain, app: int, kept: Floats, hidden: Floats) -> Ints:
    """[S]: what is free, and a part of what others hold that may leave. `kept` [S, KINDS]: of those that may not."""
    books, columns = chain.books, chain.books.columns
    own = books.counts[app].astype(np.int64)
    staying = kept + _held(books, app)
    leaving = columns.capacity - (books.free + hidden) - staying
    free = np.where(books.closed[:, None], 0.0, np.maximum(books.free, 0.0))
    more = books.holds(columns.reserve[app], np.minimum(free + chain.given_up * leaving, columns.capacity - staying))
    return np.minimum(own + np.maximum(more, 0), columns.room(app))


def _held(books: Books, app: int) -> Floats:
    """[S, KINDS]: what the app reserves."""
    return floats(books.counts[app][:, None] * books.columns.reserve[app])


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
