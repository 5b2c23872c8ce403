"""One app at given prices: add, drop, swap and trim sites over NumPy columns, then meet its limits.

demand, costs ─► sites that pay even beside all others ─► greedy adds ─► drops, swaps, trims ─► limits ─► Choice

The adds are Minoux's accelerated greedy (a gain only shrinks while sites are added, so a stale one is an upper bound); drops
and swaps are judged by what the whole set costs. Pure and deterministic.
"""

import numpy as np

from skerry.core.placement.solve.arrays import floats, ranked, sums, upto
from skerry.core.placement.solve.ask import Ask, Choice, Ints, late_weight
from skerry.core.placement.solve.assign import assign
from skerry.core.placement.solve.desk import Desk, State
from skerry.core.placement.solve.limits import Short, meet_limits
from skerry.core.types.problem import Bools, Floats

GAIN_MIN = 1e-5  # relative to J: less is rounding, and no reason to do anything
DROPS_TRIED = 4  # candidates whose true cost is computed, each round
ROUNDS_MAX = 200  # of drops, as of swaps; each improves J, so this only bounds bad luck
SWAPS_MAX = 8  # each looks at every pair of an open and a closed site: below 1 ms
RENEWED = 16  # gains that are looked at again together
TRIMS_TRIED = 8


def decide(ask: Ask) -> Choice:
    """Where one app runs best, at the prices of `ask`. Never raises on a valid ask: what cannot be met is in `short`."""
    desk = Desk(ask)
    return _choice(desk, *search(desk))


def search(desk: Desk, *, losses: bool = True) -> tuple[State, Short]:
    """The state behind `decide`, for who needs no more. Without `losses`, nothing is added to survive them."""
    state = desk.evaluate(_opened(desk))
    state = _dropped(desk, _completed(desk, state))
    state = _dropped(desk, _swapped(desk, state))
    return meet_limits(desk, _trimmed(desk, state), losses=losses)


def review(ask: Ask) -> Choice:
    """The app as it runs (`ask.now`, as far as there is room), with everybody served as well as that can be; nothing starts."""
    desk = Desk(ask)
    counts = np.maximum(np.minimum(desk.now, desk.most), desk.least)
    counts = np.where(counts >= desk.min_site, counts, 0)
    return _choice(desk, desk.with_counts(counts), ())


def _opened(desk: Desk) -> Bools:
    """What runs now, what has to, and greedy adds up to the app's maximum."""
    chosen = ((desk.now > 0) & (desk.now >= desk.min_site)) | (desk.least > 0)
    limit = len(desk.columns) if desk.ask.max_total is None else desk.ask.max_total // desk.min_site
    if not len(desk.columns) or not len(desk.rows):
        return chosen
    surely = _pays_beside_all(desk)
    if int((chosen | surely).sum()) <= limit:
        chosen = chosen | surely
    return _greedy(desk, chosen, limit)


def _pays_beside_all(desk: Desk) -> Bools:
    """Sites whose own metros alone are worth it, every other site open: in the uncapacitated problem all optima have them."""
    sites = len(desk.columns)
    every = upto(len(desk.rows))
    best = desk.cost.argmin(axis=0)
    pieces = assign(desk.cost, desk.demand, floats(desk.most * desk.rate), desk.lost)
    others = desk.cost.copy()
    others[best, every] = np.inf
    second = np.minimum(others.min(axis=0), desk.lost)
    paid = desk.cost[pieces.site, pieces.metro]
    saved = pieces.rps * np.maximum(0.0, second[pieces.metro] - paid)
    overflow = pieces.site != best[pieces.metro]  # their cheapest site is full: they need one more
    loads = pieces.loads(sites)
    needed = sums(pieces.site[overflow], pieces.rps[overflow], sites) >= desk.rate * desk.min_site
    return (sums(pieces.site, saved, sites) > desk.opening * np.maximum(1.0, loads / desk.rate)) | needed


def _greedy(desk: Desk, chosen: Bools, limit: int) -> Bools:
    """Add the site that gains most, until none gains. Stale gains are upper bounds; the best of them are renewed together."""
    chosen = chosen.copy()
    paid = _paid(desk, chosen)
    bound = _gains(desk, paid, slice(None))[0]
    bound[chosen] = -np.inf
    left = limit - int(chosen.sum())
    floor = GAIN_MIN * float(paid @ desk.demand)
    while left > 0 and bound.max() > floor:
        some = np.argpartition(-bound, RENEWED)[:RENEWED] if len(bound) > RENEWED else upto(len(bound))
        some = np.sort(some[bound[some] > floor])
        gains, spread = _gains(desk, paid, some)
        bound[some] = gains
        at = int(gains.argmax())
        site = int(some[at])
        if gains[at] > floor and gains[at] >= bound.max():
            chosen[site] = True
            bound[site] = -np.inf
            paid = np.minimum(paid, desk.cost[site] + (desk.rate_price[site] if spread[at] else 0.0))
            left -= 1
    return chosen


def _gains(desk: Desk, paid: Floats, some: Ints | slice) -> tuple[Floats, Bools]:
    """What opening each of some sites saves; and where more than the first instances would fill, so that the rest of the price
    is spread over the requests."""
    better = np.maximum(paid - desk.cost[some], 0.0)
    gains = better @ desk.demand - desk.opening[some]
    if desk.fits_one:
        return gains, np.zeros(len(gains), dtype=np.bool_)
    spread = np.maximum(better - desk.rate_price[some][:, None], 0.0) @ desk.demand
    return np.minimum(gains, spread), spread < gains


def _paid(desk: Desk, chosen: Bools) -> Floats:
    """J per rps of every metro at the cheapest of the chosen sites; at those that fill, instances count by the request."""
    sites = np.flatnonzero(chosen)
    if not len(sites):
        return np.full(len(desk.rows), desk.lost)
    cost = desk.cost[sites]
    loads = sums(cost.argmin(axis=0), desk.demand, len(sites))
    full = np.where(loads > desk.rate * np.maximum(1, desk.now[sites]), desk.rate_price[sites], 0.0)
    return np.minimum((cost + full[:, None]).min(axis=0), desk.lost)


def _completed(desk: Desk, state: State) -> State:
    """While sites overflow or demand is left, open what gains most by the true flows."""
    limit = len(desk.columns) if desk.ask.max_total is None else desk.ask.max_total // desk.min_site
    for _ in range(len(desk.columns)):
        full = state.counts >= desk.most[state.sites]
        if (not full.any() and not (state.pieces.unserved > 0.0).any()) or len(state.sites) >= limit:
            break
        gains = desk.add_gains(state)
        gains[state.sites] = -np.inf
        if not len(gains) or gains.max() <= _floor(state):
            break
        after = desk.evaluate(_with(desk, state, add=int(gains.argmax())))
        if after.total >= state.total - _floor(state):
            break
        state = after
    return state


def _dropped(desk: Desk, state: State) -> State:
    """Close what costs more than it saves."""
    for _ in range(ROUNDS_MAX):
        if len(state.sites) < 2:
            break
        best, first, second = _two_best(desk, state)
        worth = _saved_by_closing(desk, state) - sums(best, (second - first) * desk.demand, len(state.sites))
        worth[desk.least[state.sites] > 0] = -np.inf
        better = _first_better(desk, state, [(-1, int(site)) for site in state.sites[_best(worth - _floor(state), DROPS_TRIED)]])
        if better is None:
            break
        state = better
    return state


def _swapped(desk: Desk, state: State) -> State:
    """Close one and open another: every pair at once, as the users of an open site are nobody else's."""
    for _ in range(SWAPS_MAX):
        if not len(state.sites) or not len(desk.rows):
            break
        best, first, second = _two_best(desk, state)
        saved = _saved_by_closing(desk, state)
        missed = sums(best, (second - first) * desk.demand, len(state.sites))
        users = np.zeros((len(desk.rows), len(state.sites)))
        users[upto(len(desk.rows)), best] = desk.demand
        worth = np.maximum(second - desk.cost, 0.0) @ users - desk.opening[:, None] + (saved - missed)
        worth[state.sites] = -np.inf
        worth[:, desk.least[state.sites] > 0] = -np.inf
        some = ranked(-worth, DROPS_TRIED)
        some = some[worth.ravel()[some] > _floor(state)]
        changes = [(int(at) // len(state.sites), int(state.sites[int(at) % len(state.sites)])) for at in some]
        better = _first_better(desk, state, changes)
        if better is None:
            break
        state = better
    return state


def _trimmed(desk: Desk, state: State) -> State:
    """Where the last instance of a site serves little, serve that elsewhere from what is idle there."""
    loads = state.pieces.loads(len(state.sites))
    floor = np.maximum(desk.least[state.sites], desk.min_site)
    spare = state.counts * desk.rate - loads
    excess = np.where(state.counts > floor, desk.rate - spare, np.inf)
    if not len(state.sites) or not len(desk.rows):
        return state
    best, first, second = _two_best(desk, state)
    regret = np.full(len(state.sites), np.inf)
    np.minimum.at(regret, best, second - first)  # of who minds least
    moved = np.where((excess <= spare.sum() - spare) & (excess > 0.0), excess, 0.0)
    worth = desk.one_more[state.sites] - moved * np.where(regret < np.inf, regret, 0.0)
    worth[(excess > spare.sum() - spare)] = -np.inf
    for at in _best(worth - _floor(state), TRIMS_TRIED):
        counts = state.counts.copy()
        if counts[at] <= floor[at]:
            continue
        counts[at] -= 1
        after = desk.evaluate_counts(state.sites, counts)
        if after.total < state.total - _floor(state):
            state = after
    return state


def _saved_by_closing(desk: Desk, state: State) -> Floats:
    """Price and moves of each open site, against none there."""
    price, now = desk.price[state.sites], desk.now[state.sites]
    return floats(price * state.counts) + desk.move * (np.abs(state.counts - now) - now)


def _two_best(desk: Desk, state: State) -> tuple[Ints, Floats, Floats]:
    """Of every metro: its cheapest open site (position in `state.sites`), what that costs, and what the next one costs."""
    cost = desk.cost[state.sites]
    every = upto(cost.shape[1])
    best = cost.argmin(axis=0)
    first = np.minimum(cost[best, every], desk.lost)
    cost[best, every] = np.inf  # a copy: made by indexing with an array
    return best, first, np.minimum(cost.min(axis=0), desk.lost)


def _first_better(desk: Desk, state: State, changes: list[tuple[int, int]]) -> State | None:
    """The first of the changes (site to add or -1, site to drop) that lowers what everything costs."""
    for add, drop in changes:
        after = desk.evaluate(_with(desk, state, add=add, drop=drop))
        if after.total < state.total - _floor(state):
            return after
    return None


def _with(desk: Desk, state: State, *, add: int = -1, drop: int = -1) -> Bools:
    chosen = np.zeros(len(desk.columns), dtype=np.bool_)
    chosen[state.sites] = True
    if drop >= 0:
        chosen[drop] = False
    if add >= 0:
        chosen[add] = True
    return chosen


def _best(worth: Floats, count: int) -> Ints:
    """Positions of the greatest that are above 0."""
    first = ranked(-worth, count)
    return first[worth[first] > 0.0]


def _floor(state: State) -> float:
    return GAIN_MIN * (1.0 + abs(state.total))


def _choice(desk: Desk, state: State, short: tuple[tuple[str, int], ...]) -> Choice:
    ask, sites = desk.ask, len(desk.ask.price)
    counts = np.zeros(sites, dtype=np.int64)
    counts[desk.columns[state.sites]] = state.counts
    order = ranked(state.pieces.metro * len(state.sites) + state.pieces.site)
    site = desk.columns[state.sites[state.pieces.site[order]]]
    metro, rps = desk.rows[state.pieces.metro[order]], state.pieces.rps[order]
    unserved = np.zeros(len(ask.demand))
    unserved[desk.rows] = state.pieces.unserved
    serve = ask.serve_ms[metro, site]
    late = np.zeros(sites)
    if ask.latency_objective_ms is not None:
        over = np.maximum(0.0, serve - ask.latency_objective_ms)
        late = late_weight(ask.priority, ask.weights) * sums(site, rps * over, sites)
    gain = np.full(sites, -np.inf)
    gain[desk.columns] = desk.add_gains(state)
    return Choice(
        counts=counts,
        flow_metro=metro,
        flow_site=site,
        flow_rps=rps,
        unserved=unserved,
        latency=ask.weights.latency * sums(site, rps * serve, sites),
        late=late,
        cost=floats(ask.price * counts),
        move=floats(ask.weights.move * np.abs(counts - ask.now)),
        lost=desk.lost * float(unserved.sum()),
        gain=gain,
        short=short,
    )
