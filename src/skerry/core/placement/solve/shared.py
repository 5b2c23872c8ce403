"""Homes of movable data that several apps call: where all its callers together want it.

A group is data that is tied together: two data are where some app calls both. At given prices, block by block (the whole group;
each shared datum with what its callers have for themselves; each datum alone), the block goes to the home that costs least,

    Σ callers  Σ metro  demand · min(lost, least over s of  φ(RTT(m, s) + other calls(s) + K · RTT(s, h)) + p / r)  +  moves

with all other data where it is and K the caller's calls to the block; from the beginning again until no block moves. That is
a coordinate descent: it ends, and each step lowers what all callers cost.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from skerry.core.placement.solve.arrays import floats, joined, ranked, sums, upto
from skerry.core.placement.solve.ask import Ask, Ints
from skerry.core.placement.solve.books import Books
from skerry.core.placement.solve.columns import Columns
from skerry.core.placement.solve.crowd import standing_for_all
from skerry.core.placement.solve.homes import LOOKED_AT, Requests, may_be_home
from skerry.core.placement.solve.plan import serve_of
from skerry.core.placement.solve.spread import Spread
from skerry.core.types.problem import PRIORITY_NEUTRAL, Floats

SWEEPS_MAX = 8  # over a group's blocks; two are usual
LEAST_GAIN = 1e-5  # of what the callers cost: less is the rounding of single precision
CALLERS_LARGEST = 64  # callers of a block that count as they are,
CALLERS_SAMPLED = 64  # and those that stand for all others
ROWS = 2_048  # flows × sites that are looked at together


@dataclass(frozen=True)
class Group:
    """Data that some apps' calls tie together, shared or an app's own, and who calls it."""

    data: Ints
    apps: Ints


def shared(columns: Columns) -> Ints:
    """Movable data that several apps call."""
    movable = np.array([item.movable for item in columns.problem.data], dtype=np.bool_)
    return np.flatnonzero(movable & (columns.callers > 1))


def groups_of(columns: Columns) -> list[Group]:
    """All groups with shared data, by their first datum."""
    root: Ints = upto(len(columns.problem.data))
    some = shared(columns)
    if not len(some):
        return []
    callers = np.unique(columns.calls[0][np.isin(columns.calls[1], some)])
    for app in _list(callers):
        roots = [_root(root, int(data)) for data in _list(columns.loose[app])]
        root[roots] = min(roots)
    members: dict[int, set[int]] = {}
    apps: dict[int, list[int]] = {}
    for app in _list(callers):
        at = _root(root, int(columns.loose[app][0]))
        members.setdefault(at, set()).update(_list(columns.loose[app]))
        apps.setdefault(at, []).append(app)
    found = [(np.array(sorted(members[at]), dtype=np.int64), np.array(apps[at], dtype=np.int64)) for at in sorted(members)]
    return [Group(data, called_by) for data, called_by in found]


def _list(positions: Ints) -> list[int]:
    return [int(at) for at in positions]


def _root(root: Ints, data: int) -> int:
    while int(root[data]) != data:
        root[data] = root[root[data]]
        data = int(root[data])
    return data


def homes_of_groups(columns: Columns, groups: Sequence[Group], homes: Ints, price: Floats, spread: Spread) -> Ints:
    """All homes, those of the groups as the descent from `homes` leaves them."""
    found = homes.copy()
    for group, chosen in zip(groups, spread(partial(descended, columns, homes, price), groups), strict=True):
        found[group.data] = chosen
    return found


def descended(columns: Columns, homes: Ints, price: Floats, group: Group) -> Ints:
    """[data of the group]"""
    return Descent(columns, group, homes, price).homes[group.data]


class Descent:
    """One group's homes at given prices. `homes`: of all data, as they are after it."""

    def __init__(self, columns: Columns, group: Group, homes: Ints, price: Floats) -> None:
        self._columns, self._price = columns, price
        self.homes = homes.copy()
        self._asks: dict[int, Ask] = {}
        blocks = [(block, *callers_of(columns, block)) for block in _blocks(columns, group)]
        waiting = [True] * len(blocks)  # to be looked at, as something near them moved
        for _ in range(SWEEPS_MAX):
            for at, (block, callers, weight) in enumerate(blocks):
                if waiting[at] and self._moved(block, callers, weight):
                    for other, (_, others, _) in enumerate(blocks):
                        waiting[other] |= bool(np.isin(others, callers).any())
                waiting[at] = False
            if not any(waiting):
                break

    def _moved(self, block: Ints, callers: Ints, weight: Floats) -> bool:
        """The block to its best home, if that is better."""
        columns = self._columns
        asked = [self._without(app, block) for app in callers.tolist()]
        moving = sum((moves_of(columns, int(data)) for data in block), np.zeros(columns.sites))
        now = sum(float(moves_of(columns, int(data))[self.homes[data]]) for data in block)
        for (requests, ask), each, app in zip(asked, weight.tolist(), callers.tolist(), strict=True):
            now += each * self._as_it_is(app, ask, block, requests)
        best = _least([requests for requests, _ in asked], weight, moving, now - LEAST_GAIN * abs(now))
        if best is None:
            return False
        self.homes[block] = best
        return True

    def _without(self, app: int, block: Ints) -> tuple[Requests, Ask]:
        """The app's requests that take the block's data along, and the question with that at no distance."""
        columns = self._columns
        ask = self._ask(app)
        loose = columns.loose[app]
        calls, inside = columns.calls_of(app, loose), np.isin(loose, block)
        away = columns.site_rtt[:, self.homes[loose[~inside]]] @ calls[~inside]
        ask = replace(ask, serve_ms=ask.serve_ms + away)
        taken = float(calls[inside].sum())
        return Requests(columns, app, ask, np.array([taken]), np.zeros(columns.sites)), ask

    def _as_it_is(self, app: int, ask: Ask, block: Ints, requests: Requests) -> float:
        """What the app costs with the block's data where it is."""
        columns = self._columns
        data = columns.loose[app][np.isin(columns.loose[app], block)]
        homes = self.homes[data]
        if bool((homes == homes[0]).all()):
            return float(requests.exactly(homes[:1])[0])
        ask = replace(ask, serve_ms=ask.serve_ms + columns.site_rtt[:, homes] @ columns.calls_of(app, data))
        here = Requests(columns, app, ask, np.zeros(1), np.zeros(columns.sites))
        return float(here.exactly(upto(1))[0])

    def _ask(self, app: int) -> Ask:
        """With all that may move at no distance."""
        if app not in self._asks:
            self._asks[app] = self._columns.ask_for_homes(app, self.homes, self._price)
        return self._asks[app]


def _blocks(columns: Columns, group: Group) -> list[Ints]:
    """What moves together, the largest first; each once."""
    heaviest = group.data[ranked(-_called(columns)[group.data])]
    found: list[Ints] = [group.data]
    for data in _list(heaviest[columns.callers[heaviest] > 1]):
        callers = columns.calls[0][columns.calls[1] == data]
        found.append(np.unique(joined([np.array([data], dtype=np.int64), *(columns.own[int(app)] for app in callers)])))
    found += [heaviest[at : at + 1] for at in range(len(heaviest))]
    return list({tuple(block.tolist()): block for block in found}.values())


def together(columns: Columns, group: Group, homes: Ints, price: Floats) -> Floats:
    """[S]: at most what the group's callers cost with all of its data there, moves included."""
    apps, weight = callers_of(columns, group.data)
    cost = sum((moves_of(columns, int(data)) for data in group.data), np.zeros(columns.sites))
    for app, each in zip(_list(apps), weight.tolist(), strict=True):
        calls = columns.calls_of(app, columns.loose[app]).sum(keepdims=True)
        ask = columns.ask_for_homes(app, homes, price)
        cost = cost + each * Requests(columns, app, ask, calls, np.zeros(columns.sites)).bounds()
    return cost


def _called(columns: Columns) -> Floats:
    """[data]: calls per second."""
    app, data, calls = columns.calls
    return sums(data, floats(calls * columns.asked_rps[app]), len(columns.problem.data))


def callers_of(columns: Columns, block: Ints) -> tuple[Ints, Floats]:
    """Apps that call the block, and how many of their like each stands for."""
    app, data, calls = columns.calls
    rows = np.isin(data, block)
    called = sums(app[rows], floats(calls[rows] * columns.asked_rps[app[rows]]), columns.apps)
    apps = np.flatnonzero(called > 0.0)
    some, stands = standing_for_all(called[apps], upto(len(apps)), CALLERS_LARGEST, CALLERS_SAMPLED)
    return apps[some], floats(stands / called[apps[some]])


def moves_of(columns: Columns, data: int) -> Floats:
    """[S]: J of the datum's move there, whole; infinite where it may not be now."""
    price = columns.problem.weights.home * columns.problem.data[data].size_gib
    cost = np.where(may_be_home(columns, data), price, np.inf)
    cost[columns.homes_now[data]] = 0.0
    return cost


def _least(asked: Sequence[Requests], weight: Floats, moving: Floats, below: float) -> int | None:
    """The home where all of them together cost least, if that is `below`. Homes whose bound is above that, or above one that
    was looked at closely, need no look."""
    cost, found = moving.copy(), None
    for each, requests in zip(weight.tolist(), asked, strict=True):
        cost += each * requests.bounds()
    while True:
        rest = np.flatnonzero(cost < below)
        if not len(rest):
            return found
        some = rest[ranked(cost[rest], LOOKED_AT)]
        exact = moving[some]
        for each, requests in zip(weight.tolist(), asked, strict=True):
            exact = exact + each * requests.exactly(some)
        cost[some] = np.inf
        if float(exact.min()) < below:
            below, found = float(exact.min()), int(some[exact.argmin()])


def settle_shared(books: Books) -> bool:
    """Each shared datum to the best home for the flows as they are; whether one moved. J falls, or nothing changes."""
    columns = books.columns
    some = shared(columns)
    if not len(some):
        return False
    books.settle()
    serve = serve_of(columns, books.flows, books.homes)
    starts = np.searchsorted(books.flows.app, upto(columns.apps + 1))
    order = some[ranked(-_called(columns)[some])]
    return sum(_settled(books, int(data), serve, starts) for data in order) > 0


def _settled(books: Books, data: int, serve: Floats, starts: Ints) -> bool:
    """`serve`: ms of each flow, kept up to date; `starts`: of each app's flows."""
    columns, flows = books.columns, books.flows
    mine = np.flatnonzero(columns.calls[1] == data)
    callers = columns.calls[0][mine]
    rows = joined([upto(int(starts[app + 1]))[starts[app] :] for app in _list(callers)])
    called = np.repeat(columns.calls[2][mine], np.diff(starts)[callers])
    moves = moves_of(columns, data)
    tried = np.flatnonzero(np.isfinite(moves))
    site, home = flows.site[rows], int(books.homes[data])
    others = serve[rows] - called * columns.site_rtt[site, home]
    cost, weights = moves[tried], columns.problem.weights
    for start in range(0, len(rows), ROWS):
        part = slice(start, start + ROWS)
        ms = others[part, None] + called[part, None] * columns.site_rtt[np.ix_(site[part], tried)]
        asks = flows.app[rows[part]]
        over = np.maximum(0.0, ms - columns.objective_ms[asks, None])
        late = weights.late * columns.priority[asks] / PRIORITY_NEUTRAL
        cost = cost + flows.rps[rows[part]] @ (weights.latency * ms + late[:, None] * over)
    best, at = int(cost.argmin()), int(np.flatnonzero(tried == home)[0])
    if cost[best] >= cost[at] - 1e-9 * (1.0 + abs(float(cost[at]))):
        return False
    books.homes[data] = tried[best]
    serve[rows] = others + called * columns.site_rtt[site, tried[best]]
    return True
