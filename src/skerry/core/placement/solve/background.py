"""What a background pass does: of a whole plan from what runs now, the moves that pay, in steps that find room.

what runs ─► `place_all` from there ─► what each changed app would gain ─► `bundles` within the budget ─► packed
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import msgspec
import numpy as np

from skerry.core.placement.bundles import Budget, Bundle, Change, bundles
from skerry.core.placement.solve.again import books_of, columns_of, inverse, shadow_of
from skerry.core.placement.solve.arrays import ranked, sums
from skerry.core.placement.solve.ask import Ints
from skerry.core.placement.solve.batch import Decided, Market, decide_app
from skerry.core.placement.solve.books import Books
from skerry.core.placement.solve.columns import KINDS, Columns, Instances, make_columns
from skerry.core.placement.solve.desk import COUNT_SLACK, Desk, State
from skerry.core.placement.solve.mend import grown
from skerry.core.placement.solve.packable import Counts, unpacked
from skerry.core.placement.solve.prices import Giants
from skerry.core.placement.solve.shared import settle_shared
from skerry.core.placement.solve.solution import Solution, in_callers_order
from skerry.core.placement.solve.spread import Spread
from skerry.core.placement.solve.whole import Settings, place_all
from skerry.core.types.problem import Floats, Problem

PARTS = (0.5, 0.25, 0.1)  # of the way: what the budget or the room allows
ALONE = 500  # apps that are asked by themselves, too: those with most requests
MANY = 1e6
WAITS = 8  # sites where an app may wait for its room


def exchanges(problem: Problem, now: Instances, budget: Budget, spread: Spread = map) -> list[Bundle]:
    """What of a whole plan from `now` pays and can be made from there, within the budget; apps and sites by the caller's index.

    Data that several apps call stays where it is; what is an app's own goes along.
    """
    columns, found = _exchanged(problem, now, budget, spread)
    return [_in_callers_order(bundle, columns) for bundle in found]


def rebalance(problem: Problem, solution: Solution, budget: Budget | None = None, spread: Spread = map) -> Solution:
    """The solution after the `exchanges` of a whole plan; then data that several apps call is where that is best.

    `problem` has its data where the solution has it.
    """
    columns, found = _exchanged(problem, solution.instances, budget or Budget(), spread)
    books = books_of(columns_of(problem, solution), solution)
    shadow = shadow_of(columns, solution)
    for change in [change for bundle in found for step in bundle.steps for change in step]:
        books.decide(_decided(columns, change))
    settle_shared(books)
    return in_callers_order(books.columns, books, shadow)


def _exchanged(problem: Problem, now: Instances, budget: Budget, spread: Spread) -> tuple[Columns, list[Bundle]]:
    """By the order of ids."""
    fixed = _with_shared_data_fixed(problem)
    target = place_all(fixed, now, Settings(giants=Giants(most=0), proves=False), spread)
    columns, books = make_columns(fixed, now), books_of(columns_of(fixed, target), target)
    have = np.zeros_like(books.counts)
    have[columns.now.app, columns.now.site] = columns.now.count
    short = {inverse(columns.order.apps)[app] for app, _, _ in target.short}
    changed = [int(app) for app in np.flatnonzero((have != books.counts).any(axis=1)) if app not in short]
    changes = [change for app in changed for change in _changes(columns, app, have[app].astype(np.int64), books)]
    free = np.maximum(0.0, columns.capacity - columns.usage(columns.now))
    alone = ranked(-columns.asked_rps, ALONE)
    changes += [change for app in alone.tolist() for change in _alone(columns, app, have[app].astype(np.int64), free)]
    room = [[float(kind) for kind in kinds] for kinds in free]
    found = bundles(changes, room, budget, problem.weights.move)
    return columns, _packable(columns, have, found)


def _with_shared_data_fixed(problem: Problem) -> Problem:
    calls = Counter(call.data for app in problem.apps for call in app.calls)
    data = (msgspec.structs.replace(one, movable=one.movable and calls[one.data] == 1) for one in problem.data)
    return replace(problem, data=tuple(data))


def _changes(columns: Columns, app: int, have: Ints, target: Books) -> list[Change]:
    """All of it; and, of apps whose limits allow it, only a part of the way."""
    found: dict[tuple[int, ...], Change] = {}
    for number, want in enumerate(_ways(columns, app, have, _busy(columns, app, target))):
        homes = columns.homes_now if number else target.homes
        waits = _waits(columns, app, have, want)
        found.setdefault(tuple(want.tolist()), _change(columns, app, (have, want), homes, waits))
    return list(found.values())


def _busy(columns: Columns, app: int, target: Books) -> Ints:
    """[S]: what the plan has of the app, less what is idle and no limit needs."""
    asked, want = columns.problem.apps[app], target.counts[app].astype(np.int64)
    rows = slice(*np.searchsorted(target.flows.app, (app, app + 1)))
    loads = sums(target.flows.site[rows], target.flows.rps[rows], columns.sites)
    need = np.ceil(loads / asked.rps_per_instance - COUNT_SLACK).astype(np.int64)
    need = np.minimum(want, np.where(need > 0, np.maximum(need, asked.min_site), 0))
    free = not (asked.survive_sites or asked.region_min) and int(need.sum()) >= max(1, asked.min_total)
    return need if free else want


def _alone(columns: Columns, app: int, have: Ints, free: Floats) -> list[Change]:
    """What an app would do by itself in the room that is free now, and its own data with it. Empty: nothing, or too little."""
    reserve = columns.reserve[app]
    fits = np.min([free[:, kind] // reserve[kind] for kind in range(KINDS) if reserve[kind] > 0.0], axis=0, initial=MANY)
    room = np.minimum(have + fits.astype(np.int64), columns.room(app))
    one = decide_app(Market.at(columns, columns.homes_now, np.zeros_like(free)), app, room)
    want = one.counts(columns.sites)
    return [] if one.short or np.array_equal(want, have) else [_change(columns, app, (have, want), one.homes, ())]


def _change(columns: Columns, app: int, way: tuple[Ints, Ints], homes: Ints, waits: tuple[int, ...]) -> Change:
    """`way`: from and to."""
    have, want = way
    gain = _value(columns, app, have, columns.homes_now) - _value(columns, app, want, homes)
    reserve = tuple(float(kind) for kind in columns.reserve[app])
    along = tuple((int(data), int(homes[data])) for data in columns.own[app])
    return Change(app, _counts(have), _counts(want), reserve, gain, waits, along)


def _ways(columns: Columns, app: int, have: Ints, want: Ints) -> list[Ints]:
    """The whole way first."""
    asked, more = columns.problem.apps[app], want - have
    if asked.survive_sites or asked.region_min or asked.min_site > 1 or len(columns.own[app]):
        return [want]
    parts = [have + (np.sign(more) * np.ceil(np.abs(more) * part)).astype(np.int64) for part in PARTS]
    most = asked.max_total
    return [want, *(one for one in parts if asked.min_total <= int(one.sum()) and (most is None or int(one.sum()) <= most))]


def _counts(row: Ints) -> dict[int, int]:
    return {int(site): int(row[site]) for site in np.flatnonzero(row)}


def _value(columns: Columns, app: int, counts: Ints, homes: Ints) -> float:
    """J of the app with these instances, moves of theirs left out, and with its data at these homes."""
    _, state = _served(columns, app, counts.astype(np.int64), homes)
    return state.total + columns.moved_homes_cost(app, homes)


def _served(columns: Columns, app: int, counts: Ints, homes: Ints) -> tuple[Desk, State]:
    """Everybody served as well as these instances can; none of them is a move."""
    ask = columns.ask(app, homes=homes, shadow=np.zeros_like(columns.capacity), room=np.maximum(columns.room(app), counts))
    desk = Desk(replace(ask, now=counts, min_site=1, max_site=None, max_total=None))
    return desk, desk.with_counts(counts[desk.columns])


def _decided(columns: Columns, change: Change) -> Decided:
    counts, homes = np.zeros(columns.sites, dtype=np.int64), columns.homes_now.copy()
    counts[list(change.has)] = list(change.has.values())
    for data, home in change.homes:
        homes[data] = home
    desk, state = _served(columns, change.app, counts, homes)
    return Decided(change.app, desk, state, homes, homes, state.total, ())


def _waits(columns: Columns, app: int, have: Ints, want: Ints) -> tuple[int, ...]:
    """Where what leaves could be for a while, the cheapest first: for apps that no limit ties to some sites."""
    asked = columns.problem.apps[app]
    count = int(np.maximum(0, have - want).sum())
    if asked.region_min or asked.survive_sites or count < asked.min_site or not count:
        return ()
    most = columns.room(app) if asked.max_site is None else np.minimum(columns.room(app), asked.max_site)
    metros, rps = columns.problem.demand.of(app)
    cost = rps @ columns.serve_ms(app, metros.astype(np.int64), columns.homes_now)
    cost = np.where((most >= have + count) & ~columns.cut_off, cost, np.inf)
    return tuple(int(site) for site in ranked(cost, WAITS) if np.isfinite(cost[site]))


def _packable(columns: Columns, have: Counts, found: list[Bundle]) -> list[Bundle]:
    """Those after which every site's nodes hold what is there; the last of the others goes first."""
    while found:
        after = have.copy()
        for change in (change for bundle in found for step in bundle.steps for change in step):
            after[change.app] = 0
            after[change.app, list(change.has)] = list(change.has.values())
        sites = np.flatnonzero((unpacked(columns, after, grown(after, have)) > 0.0).any(axis=1))
        full = {int(site) for site in sites}
        here = [one for one in found if any(full & change.has.keys() for step in one.steps for change in step)]
        if not here:
            break
        found = [one for one in found if one is not here[-1]]
    return found


def _in_callers_order(bundle: Bundle, columns: Columns) -> Bundle:
    apps, sites = columns.order.apps, columns.order.sites

    def there(counts: Mapping[int, int]) -> dict[int, int]:
        return {int(sites[site]): count for site, count in counts.items()}

    def moved(change: Change) -> Change:
        waits = tuple(int(sites[site]) for site in change.waits)
        homes = tuple((int(columns.order.data[data]), int(sites[home])) for data, home in change.homes)
        return Change(int(apps[change.app]), there(change.had), there(change.has), change.reserve, change.gain, waits, homes)

    return replace(bundle, steps=tuple(tuple(moved(change) for change in step) for step in bundle.steps))
