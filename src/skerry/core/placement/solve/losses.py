"""Instances that carry what is lost with an app's largest sites, in the room there is.

who would not carry it ─► more instances beside the largest sites ─► fewer in each ─► as many as there is room for
"""

from dataclasses import replace

import numpy as np

from skerry.core.placement.solve.arrays import sums, upto
from skerry.core.placement.solve.ask import Ints
from skerry.core.placement.solve.batch import Market, decide_app
from skerry.core.placement.solve.books import PLENTY, Books
from skerry.core.placement.solve.desk import COUNT_SLACK
from skerry.core.placement.solve.limits import Standing, in_largest, spread_out, survival_shortage
from skerry.core.placement.solve.repair import TINY_RPS, important_first
from skerry.core.types.problem import Floats

SITES_LEFT = (1, 2, 4, 8)  # that carry an app after its losses, in what is tried


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
    left: list[int] = []
    for app in [int(app) for app in important_first(columns, unsafe_apps(books, served))]:
        if reserved(books, app, float(served[app]), price @ columns.reserve[app], books.room(app)):
            continue
        room = books.room(app)
        need = int(np.ceil(served[app] / columns.rate[app] - COUNT_SLACK))
        found = [decide_app(careful, app, np.minimum(room, level)) for level in _levels(room, need, asked[app].survive_sites)]
        lost = float(books.unserved.rps[books.unserved.app == app].sum()) + TINY_RPS
        kept = [one for one in found if not one.short and float(one.state.pieces.unserved.sum()) <= lost]
        if kept:
            books.decide(min(kept, key=lambda one: one.total))
        else:
            left.append(app)
    for app in left:  # what others do not need for all of theirs
        reserved(books, app, float(served[app]), price @ columns.reserve[app], books.room(app), in_part=True)


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


def reserved(books: Books, app: int, served: float, price: Floats, room: Ints, *, in_part: bool = False) -> bool:
    """Add what is missing, up to `room` at each site; whether nothing is missing then. Else nothing changes, but `in_part`."""
    asked = books.columns.problem.apps[app]
    before = counts = books.counts[app].astype(np.int64)
    most = room if asked.max_site is None else np.minimum(room, asked.max_site)
    standing = Standing(counts, np.maximum(most, counts), price, max(1, asked.min_site))
    missing = survival_shortage(counts, served, asked.rps_per_instance, asked.survive_sites)
    left = PLENTY if asked.max_total is None else max(0, asked.max_total - int(counts.sum()))
    if missing > 0:
        counts = before + spread_out(standing, asked.survive_sites, missing, left)
        missing = survival_shortage(counts, served, asked.rps_per_instance, asked.survive_sites)
    if missing <= 0 or in_part:
        books.set_counts(app, counts)
    return missing <= 0


def _level(room: Ints, need: int, losses: int) -> int | None:
    """The fewest instances per site with which the rest carries `need` after the losses; None: however many, it does not."""
    low, high = 0, int(room.max(initial=0))
    if int(room.sum()) - in_largest(room, losses) < need:
        return None
    while low < high:
        middle = (low + high) // 2
        kept = np.minimum(room, middle)
        if int(kept.sum()) - in_largest(kept, losses) >= need:
            high = middle
        else:
            low = middle + 1
    return low
