"""Instances that carry what is lost with an app's largest sites: in the room there is, or where others make room.

who would not carry it ─► more instances beside the largest sites ─► fewer in each ─► others leave full sites, if all of them find
another one ─► who still would not
"""

from dataclasses import replace

import numpy as np

from skerry.core.placement.solve.arrays import sums, upto
from skerry.core.placement.solve.ask import Ints
from skerry.core.placement.solve.batch import Market, decide_app
from skerry.core.placement.solve.books import PLENTY, Books
from skerry.core.placement.solve.desk import COUNT_SLACK
from skerry.core.placement.solve.limits import SPREADS_MAX, Standing, spread_out, survival_shortage
from skerry.core.placement.solve.repair import RELIEFS_MAX, TINY_RPS, broken, decide_anew, important_first, relieve
from skerry.core.types.problem import Floats

SITES_LEFT = (1, 2, 4, 8)  # that carry an app after its losses, in what is tried
GIVEN_UP = 0.5  # of what a site runs may have to leave for those who cannot reserve anywhere else


def reserve_for_losses(books: Books, market: Market) -> None:
    """Instances that carry what is lost with the largest sites, in the room that is left, the important apps first.

    An app that is too much in few sites for that decides anew with fewer instances in each.
    """
    columns = books.columns
    books.settle()
    served = sums(books.flows.app, books.flows.rps, columns.apps)
    asked = columns.problem.apps
    price = columns.price + market.shadow
    careful = replace(market, losses=True)
    for app in [int(app) for app in important_first(columns, unsafe_apps(books, served))]:
        if _reserved(books, app, float(served[app]), price @ columns.reserve[app], books.room(app)):
            continue
        room = books.room(app)
        need = int(np.ceil(served[app] / columns.rate[app] - COUNT_SLACK))
        found = [decide_app(careful, app, np.minimum(room, level)) for level in _levels(room, need, asked[app].survive_sites)]
        lost = float(books.unserved.rps[books.unserved.app == app].sum()) + TINY_RPS
        kept = [one for one in found if not one.short and float(one.state.pieces.unserved.sum()) <= lost]
        if kept:
            books.decide(min(kept, key=lambda one: one.total))


def make_room(books: Books, market: Market) -> bool:
    """Others leave full sites where apps can reserve nowhere else for their losses: as many as find another site, all of them.

    The important apps first; with half of them where it does not work for all. Whether anything changed.
    """
    books.settle()
    served = sums(books.flows.app, books.flows.rps, books.columns.apps)
    before, lost = books.copied(), float(books.unserved.rps.sum())
    unsafe = important_first(books.columns, unsafe_apps(books, served))
    claiming = unsafe
    while len(claiming):
        _claim(books, market, claiming, served)
        left = _made_way(books, market, claiming)
        if not books.over().any() and float(books.unserved.rps.sum()) <= lost * (1.0 + 1e-9) + TINY_RPS and left < len(unsafe):
            return True
        books.restore(before)
        claiming = claiming[: len(claiming) // 2]
    return False


def _claim(books: Books, market: Market, apps: Ints, served: Floats) -> None:
    """Instances for losses, as if a part of what runs at each site were gone already."""
    columns = books.columns
    price = columns.price + market.shadow
    others = GIVEN_UP * np.maximum(columns.capacity - np.maximum(books.free, 0.0), 0.0)
    for app in apps.tolist():
        own = books.counts[app].astype(np.int64)
        more = books.holds(columns.reserve[app], np.maximum(books.free + others, 0.0))
        most = np.minimum(own + more, columns.room(app))
        _reserved(books, app, float(served[app]), price @ columns.reserve[app], most, apart=True)


def _made_way(books: Books, market: Market, claiming: Ints) -> int:
    """Full sites are relieved, but not of the apps that claim them; how many apps would not survive their losses then."""
    for _ in range(RELIEFS_MAX):
        if not books.over().any():
            break
        apart = np.union1d(relieve(books, market, claiming), broken(books))
        decide_anew(books, market, important_first(books.columns, apart))
    reserve_for_losses(books, market)
    books.settle()
    return len(unsafe_apps(books, sums(books.flows.app, books.flows.rps, books.columns.apps)))


def unsafe_apps(books: Books, served: Floats) -> Ints:
    """Apps that would not carry what they serve without their largest sites."""
    losses = np.array([app.survive_sites for app in books.columns.problem.apps], dtype=np.int64)
    asking = np.flatnonzero(losses > 0)
    if not len(asking):
        return asking
    most = min(int(losses[asking].max()), books.columns.sites)
    counts = books.counts[asking]
    largest = -np.sort(np.partition(-counts, most - 1, axis=1)[:, :most], axis=1) if most else np.zeros((len(asking), 1))
    gone = np.cumsum(largest, axis=1)[upto(len(asking)), np.minimum(losses[asking], most) - 1]
    need = np.ceil(served[asking] / books.columns.rate[asking] - COUNT_SLACK)
    return asking[counts.sum(axis=1) - gone < need]


def _levels(room: Ints, need: int, losses: int) -> list[int]:
    """Instances per site, at most: those with which few sites carry `need` after the losses, more, or as many as there are."""
    least = _level(room, need, losses)
    if least is None:
        return []
    return sorted({max(least, -(-need // sites)) for sites in SITES_LEFT} | {least})


def _reserved(books: Books, app: int, served: float, price: Floats, room: Ints, *, apart: bool = False) -> bool:
    """Add what is missing, up to `room` at each site; whether nothing is missing any more. `apart`: sites that may run none do
    not count as ones that could have as many."""
    asked = books.columns.problem.apps[app]
    for _ in range(SPREADS_MAX):
        counts = books.counts[app].astype(np.int64)
        missing = survival_shortage(counts, served, asked.rps_per_instance, asked.survive_sites)
        left = PLENTY if asked.max_total is None else asked.max_total - int(counts.sum())
        if missing <= 0 or left <= 0:
            return missing <= 0
        most = room if asked.max_site is None else np.minimum(room, asked.max_site)
        some = np.flatnonzero((most > 0) | (counts > 0)) if apart else upto(len(counts))
        standing = Standing(counts[some], np.maximum(most, counts)[some], price[some], max(1, asked.min_site))
        added = np.zeros_like(counts)
        added[some] = spread_out(standing, asked.survive_sites, missing, left)
        if not added.any():
            return False
        books.set_counts(app, counts + added)
    return False


def _level(room: Ints, need: int, losses: int) -> int | None:
    """The fewest instances per site with which the rest carries `need` after the losses; None: however many, it does not."""
    low, high = 0, int(room.max(initial=0))
    if int(room.sum()) - int(np.sort(room)[::-1][:losses].sum()) < need:
        return None
    while low < high:
        middle = (low + high) // 2
        kept = np.minimum(room, middle)
        if int(kept.sum()) - int(np.sort(kept)[::-1][:losses].sum()) >= need:
            high = middle
        else:
            low = middle + 1
    return low
