"""Whole numbers an app insists on: totals, regions, losses it survives. Met from the cheapest change on."""

from dataclasses import dataclass

import numpy as np

from skerry.core.placement.solve.arrays import ranked, sums, upto
from skerry.core.placement.solve.ask import Ints
from skerry.core.placement.solve.desk import COUNT_SLACK, Desk, State
from skerry.core.types.problem import Bools, Floats

SPREADS_MAX = 64  # rounds of adding instances for losses; one or two are usual
LEVELS = 17  # instances per site that are looked at together
FINE = 4  # part of what is missing: where levels differ by less, their costs hardly do
COARSE = np.array(
    [0, 1, *(step << power for power in range(29) for step in (2, 3))], dtype=np.int64
)  # 0, 1, 2, 3, 4, 6, 8, 12, …
Short = tuple[tuple[str, int], ...]


def meet_limits(desk: Desk, state: State, *, losses: bool = True) -> tuple[State, Short]:
    """Add what is missing, take away what is too much; what stays unmet is named. Regions first, then losses, then totals."""
    floor = desk.least.copy()
    state, short = _fill_regions(desk, state, floor)
    state = _within_total(desk, state, floor)
    state, unsurvived = _survive(desk, state) if losses else (state, ())
    state, few = _fill_total(desk, state)
    over = state.instances - desk.ask.max_total if desk.ask.max_total is not None else 0
    return state, (*short, *unsurvived, *few, *((("max_total", over),) if over > 0 else ()))


def _fill_regions(desk: Desk, state: State, floor: Ints) -> tuple[State, Short]:
    """`floor` grows to what the regions need, so that nothing takes it away again."""
    short: list[tuple[str, int]] = []
    for mask, least in desk.ask.region_min:
        inside = mask[desk.columns]
        missing = least - int(desk.all_counts(state)[inside].sum())
        state, missing = _add(desk, state, inside, missing)
        counts = desk.all_counts(state)
        _raise_floor(floor, counts, inside, least)
        short += [("region_min", missing)] if missing > 0 else []
    return state, tuple(short)


def _raise_floor(floor: Ints, counts: Ints, inside: Bools, least: int) -> None:
    """Guard `least` of the instances inside, the largest sites first."""
    left = least - int(floor[inside].sum())
    for at in ranked(-np.where(inside, counts, -1)):
        if left <= 0 or not inside[at]:
            break
        more = min(left, int(counts[at] - floor[at]))
        floor[at] += max(0, more)
        left -= max(0, more)


def _survive(desk: Desk, state: State) -> tuple[State, Short]:
    """What is left after the largest sites are gone still carries what is served."""
    losses = desk.ask.survive_sites
    if losses <= 0 or not len(desk.rows):
        return state, ()
    for _ in range(SPREADS_MAX):
        counts = desk.all_counts(state)
        missing = survival_shortage(counts, _served(state), desk.rate, losses)
        left = _left_of_total(desk, state)
        if missing <= 0 or left <= 0:
            break
        added = spread_out(_standing(desk, counts), losses, missing, left)
        if not added.any():
            break
        state = desk.with_counts(counts + added)
    missing = survival_shortage(desk.all_counts(state), _served(state), desk.rate, losses)
    return state, ((("survive_sites", missing),) if missing > 0 else ())


def _standing(desk: Desk, counts: Ints) -> "Standing":
    price = np.where(counts < desk.now, desk.price - desk.move, desk.one_more)
    return Standing(counts, desk.most, price, desk.min_site)


@dataclass(frozen=True)
class Standing:
    """What an app runs where, what it may run, and what one more costs: [S] each."""

    counts: Ints
    most: Ints
    price: Floats
    min_site: int

    def at(self, sites: Ints) -> "Standing":
        return Standing(self.counts[sites], self.most[sites], self.price[sites], self.min_site)


def spread_out(standing: Standing, losses: int, missing: int, left: int) -> Ints:
    """More instances, at most `left`, so that `missing` more are there after the largest sites are gone: the cheapest there are.

    What is there after k losses is the most over levels t of Σ min(count, t) − k · t. So at each level the sites below it are
    filled up to it, the cheapest first; what that costs is convex in the level. Where no level will do: as much as helps most.
    """
    counts = standing.counts
    need = missing + int(counts.sum()) - in_largest(counts, losses)
    price, running = standing.price - np.where(counts > 0, 1e-6, 0.0), counts[counts > 0]
    order = np.flatnonzero(standing.most > counts)
    order = order[ranked(price[order])]
    ordered = standing.at(order)
    low, high = 0, min(need, int(standing.most.max(initial=0)))  # a higher level than what is needed in all helps nobody
    levels = _levels(low, high) if high < LEVELS else np.append(COARSE[: np.searchsorted(COARSE, high)], high)
    while True:
        wanted = need + losses * levels - np.minimum(running, levels[:, None]).sum(axis=1)
        added = _filled(ordered, levels, np.minimum(np.maximum(wanted, 0), left), left)
        lacking = np.maximum(wanted - added.sum(axis=1), 0)
        at = int(np.lexsort((levels, added @ ordered.price, lacking))[0])
        if high - low < len(levels):
            break
        low, high = int(levels[max(0, at - 1)]), int(levels[min(len(levels) - 1, at + 1)])
        if losses * (high - low) <= missing // FINE and not lacking[at]:
            break
        levels = _levels(low, high)
    found = np.zeros_like(counts)
    found[order] = added[at]
    return found


def _levels(low: int, high: int) -> Ints:
    """All of them, or `LEVELS` from the first to the last."""
    return np.arange(low, high + 1) if high - low < LEVELS else low + (high - low) * upto(LEVELS) // (LEVELS - 1)


def _filled(standing: Standing, levels: Ints, wanted: Ints, left: int) -> Ints:
    """[levels, S]: so many more instances up to each level, the first sites first; `left` in all where sites have a minimum."""
    can = np.minimum(standing.most, levels[:, None])
    can -= standing.counts
    np.maximum(can, 0, out=can)
    least, fresh = standing.min_site, standing.counts == 0
    if least > 1:
        can = np.where(fresh & (can < least), 0, can)
    before = can.cumsum(axis=1)
    before -= can
    added = np.subtract(wanted[:, None], before, out=before)
    np.maximum(added, 0, out=added)
    np.minimum(added, can, out=added)
    if least <= 1:
        return added
    added = np.where(fresh & (added > 0), np.maximum(added, least), added)
    return np.where(added.cumsum(axis=1) <= left, added, 0)


def survival_shortage(counts: Ints, served_rps: float, rate: float, losses: int) -> int:
    """Instances missing for what is served, once the `losses` sites with most instances are gone."""
    need = int(np.ceil(served_rps / rate - COUNT_SLACK))
    return need - (int(counts.sum()) - in_largest(counts, losses))


def in_largest(counts: Ints, sites: int) -> int:
    """Instances in so many sites, those with the most."""
    return int(counts.max(initial=0)) if sites == 1 else int(np.sort(counts)[::-1][:sites].sum())


def _fill_total(desk: Desk, state: State) -> tuple[State, Short]:
    every = np.ones(len(desk.columns), dtype=np.bool_)
    state, missing = _add(desk, state, every, desk.ask.min_total - state.instances)
    return state, ((("min_total", missing),) if missing > 0 else ())


def _add(desk: Desk, state: State, inside: Bools, missing: int) -> tuple[State, int]:
    """Up to `missing` more instances inside, each where J rises least; how many are still missing."""
    while missing > 0:
        gains = np.where(inside & _room(desk, state), desk.add_gains(state), -np.inf)
        if not len(gains) or gains.max() == -np.inf:
            break
        counts = desk.all_counts(state)
        at = int(gains.argmax())
        step = desk.min_site if counts[at] == 0 else 1
        if _flat(desk, state, gains, at):
            step = max(step, min(missing, int(desk.most[at] - counts[at]), _left_of_total(desk, state)))
        counts[at] += step
        state = desk.with_counts(counts)
        missing -= step
    return state, missing


def _flat(desk: Desk, state: State, gains: Floats, at: int) -> bool:
    """Whether the next instances there cost what the first does, so that they can be added at once."""
    there = bool(np.any(state.sites == at))
    return there and gains[at] >= -desk.one_more[at] * (1 + 1e-12) and float(gains[at]) <= -desk.one_more[at] * (1 - 1e-12)


def _room(desk: Desk, state: State) -> Bools:
    counts = desk.all_counts(state)
    step = np.where(counts > 0, 1, desk.min_site)
    return (counts + step <= desk.most) & (step <= _left_of_total(desk, state))


def _left_of_total(desk: Desk, state: State) -> int:
    limit = desk.ask.max_total
    return int(desk.most.sum()) if limit is None else limit - state.instances


def _within_total(desk: Desk, state: State, floor: Ints) -> State:
    """Take away what is least missed until the maximum holds: first what is idle, then by what its users would pay elsewhere."""
    limit = desk.ask.max_total
    while limit is not None and state.instances > limit:
        counts, most = desk.all_counts(state), state.instances - limit
        here = counts[state.sites]
        step = np.where(here - 1 >= desk.min_site, 1, here)
        missed = np.where(here - step >= floor[state.sites], _missed(desk, state, step), np.inf)
        if not len(missed) or missed.min() == np.inf:
            break
        for at in ranked(missed, max(1, most // 4)):
            if most <= 0 or missed[at] == np.inf:
                break
            counts[state.sites[at]] -= step[at]
            most -= int(step[at])
        state = desk.with_counts(counts)
    return state


def _missed(desk: Desk, state: State, step: Ints) -> Floats:
    """About what J rises by without `step` instances per open site: their flows go to the next site, or stay unserved."""
    pieces = state.pieces
    price = desk.running(desk.all_counts(state))[state.sites] - _running_less(desk, state, step)
    if not len(pieces.site):
        return -price
    cost = desk.cost[state.sites][:, pieces.metro]
    paid = cost[pieces.site, upto(len(pieces.site))]
    spare = state.counts * desk.rate - pieces.loads(len(state.sites))
    cost[spare <= 0.0] = np.inf
    cost[pieces.site, upto(len(pieces.site))] = np.inf
    regret = np.minimum(cost.min(axis=0), desk.lost) - paid
    loads = pieces.loads(len(state.sites))
    share = np.maximum(0.0, loads - (state.counts - step) * desk.rate) / np.maximum(loads, 1e-300)
    return sums(pieces.site, regret * pieces.rps, len(state.sites)) * share - price


def _running_less(desk: Desk, state: State, step: Ints) -> Floats:
    counts = desk.all_counts(state)
    counts[state.sites] -= step
    return desk.running(counts)[state.sites]


def _served(state: State) -> float:
    return float(state.pieces.rps.sum())
