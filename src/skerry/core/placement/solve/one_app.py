"""One app at given prices: add, drop, swap and trim sites over NumPy columns, then meet its limits.

demand, costs ─► sites that pay even beside all others ─► greedy adds ─► drops, swaps, trims ─► limits ─► Choice

The adds are Minoux's accelerated greedy (a gain only shrinks while sites are added, so a stale one is an upper bound); drops
and swaps are judged by what the whole set costs. Pure and deterministic.
"""

import numpy as np

from skerry.core.placement.solve.arrays import floats, ranked, sums, upto
from skerry.core.placement.solve.ask import Ask, Choice, Ints, late_weight
from skerry.core.placement.solve.desk import Desk, State
from skerry.core.placement.solve.limits import meet_limits
from skerry.core.types.problem import Bools, Floats

GAIN_MIN = 1e-6  # relative to J: less is rounding, and no reason to do anything
DROPS_TRIED = 6  # candidates whose true cost is computed, each round
ROUNDS_MAX = 200  # of drops, as of swaps; each improves J, so this only bounds bad luck
SWAP_WORK_MAX = 1_000_000  # sites × metros × open sites looked at for swaps: about 3 ms
TRIMS_TRIED = 8


def decide(ask: Ask) -> Choice:
    """Where one app runs best, at the prices of `ask`. Never raises on a valid ask: what cannot be met is in `short`."""
    desk = Desk(ask)
    state = desk.evaluate(_opened(desk))
    state = _dropped(desk, _completed(desk, state))
    state = _dropped(desk, _swapped(desk, state))
    state = _trimmed(desk, state)
    state, short = meet_limits(desk, state)
    return _choice(desk, state, short)


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
    every = upto(len(desk.rows))
    best = desk.cost.argmin(axis=0)
    first = desk.cost[best, every]
    others = desk.cost.copy()
    others[best, every] = np.inf
    saved = desk.demand * np.maximum(0.0, np.minimum(others.min(axis=0), desk.lost) - first)
    sites = len(desk.columns)
    loads = sums(best, desk.demand, sites)
    return sums(best, saved, sites) > desk.opening * np.maximum(1.0, loads / desk.rate)


def _greedy(desk: Desk, chosen: Bools, limit: int) -> Bools:
    """Add the site that gains most, until none gains. Costs beyond a full first instance are spread over the requests."""
    chosen = chosen.copy()
    rate = desk.one_more / desk.rate
    opening = desk.opening
    paid = _paid(desk, chosen, rate)
    large = float(desk.demand.sum()) > desk.rate * desk.min_site
    better = np.maximum(paid - desk.cost, 0.0)
    bound = better @ desk.demand - opening
    bound[chosen] = -np.inf
    left = limit - int(chosen.sum())
    floor = GAIN_MIN * (1.0 + float(paid @ desk.demand) if not chosen.any() else float(paid @ desk.demand))
    while left > 0:
        site = int(bound.argmax())
        if bound[site] <= floor:
            break
        saved = paid - desk.cost[site]
        gain = float(np.maximum(saved, 0.0) @ desk.demand) - opening[site]
        spread = large and float(desk.demand[saved > 0.0].sum()) > desk.rate * desk.min_site
        if spread:
            gain = min(gain, float(np.maximum(saved - rate[site], 0.0) @ desk.demand))
        bound[site] = -np.inf
        if gain >= max(float(bound.max()), floor):
            chosen[site] = True
            paid = np.minimum(paid, desk.cost[site] + (rate[site] if spread else 0.0))
            left -= 1
        else:
            bound[site] = gain
    return chosen


def _paid(desk: Desk, chosen: Bools, rate: Floats) -> Floats:
    """J per rps of every metro at the cheapest of the chosen sites; at those that fill, instances count by the request."""
    sites = np.flatnonzero(chosen)
    if not len(sites):
        return np.full(len(desk.rows), desk.lost)
    cost = desk.cost[sites]
    loads = sums(cost.argmin(axis=0), desk.demand, len(sites))
    full = np.where(loads > desk.rate * np.maximum(1, desk.now[sites]), rate[sites], 0.0)
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
        worth = _saved_by_closing(desk, state) - _lost_by_closing(desk, state)
        worth[desk.least[state.sites] > 0] = -np.inf
        better = _first_better(desk, state, [(-1, int(site)) for site in state.sites[_best(worth, DROPS_TRIED)]])
        if better is None:
            break
        state = better
    return state


def _swapped(desk: Desk, state: State) -> State:
    """Close one and open another, those first that are least missed."""
    limit = max(1, SWAP_WORK_MAX // max(1, desk.cost.size))
    for _ in range(ROUNDS_MAX):
        if not len(state.sites) or not len(desk.rows):
            break
        saved, missed = _saved_by_closing(desk, state), _lost_by_closing(desk, state)
        tried = [int(at) for at in ranked(missed - saved)[:limit]]
        limit -= len(tried)
        found: list[tuple[float, int, int]] = []
        for at in tried:
            if desk.least[state.sites[at]] > 0:
                continue
            add, gain = _best_instead(desk, state, at)
            worth = gain + float(saved[at])
            if worth > _floor(state):
                found.append((-worth, add, int(state.sites[at])))
        better = _first_better(desk, state, [(add, drop) for _, add, drop in sorted(found)[:DROPS_TRIED]])
        if better is None or limit <= 0:
            return better or state
        state = better
    return state


def _best_instead(desk: Desk, state: State, at: int) -> tuple[int, float]:
    """The site to open when the `at`-th is closed, and how J changes by that, what closing saves left out."""
    rest = np.delete(state.sites, at)
    paid = desk.cost[rest].min(axis=0) if len(rest) else np.full(len(desk.rows), desk.lost)
    paid = np.minimum(paid, desk.lost)
    before = np.minimum(desk.cost[state.sites].min(axis=0), desk.lost)
    changed = np.flatnonzero(paid > before)  # others gain from a new site only what greedy adds would have found
    gains = np.maximum(paid[changed] - desk.cost[:, changed], 0.0) @ desk.demand[changed] - desk.opening
    gains[state.sites] = -np.inf
    add = int(gains.argmax())
    return add, float(gains[add]) - float((paid - before) @ desk.demand)


def _trimmed(desk: Desk, state: State) -> State:
    """Where the last instance of a site serves little, serve that elsewhere from what is idle there."""
    loads = state.pieces.loads(len(state.sites))
    floor = np.maximum(desk.least[state.sites], desk.min_site)
    spare = state.counts * desk.rate - loads
    excess = np.where(state.counts > floor, desk.rate - spare, np.inf)
    worth = np.where(excess <= spare.sum() - spare, desk.one_more[state.sites] - excess * desk.move / desk.rate, -np.inf)
    for at in _best(worth, TRIMS_TRIED):
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


def _lost_by_closing(desk: Desk, state: State) -> Floats:
    """What the users of each open site pay more at their second one, were it alone closed."""
    cost = desk.cost[state.sites]
    every = upto(cost.shape[1])
    best = cost.argmin(axis=0)
    first = np.minimum(cost[best, every], desk.lost)
    cost[best, every] = np.inf  # a copy: made by indexing with an array
    second = np.minimum(cost.min(axis=0), desk.lost)
    return sums(best, (second - first) * desk.demand, len(state.sites))


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
    first = ranked(-worth)[:count]
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
