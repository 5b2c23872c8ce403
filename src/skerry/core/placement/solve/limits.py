"""Whole numbers an app insists on: totals, regions, losses it survives. Met from the cheapest change on."""

import numpy as np

from skerry.core.placement.solve.arrays import ranked
from skerry.core.placement.solve.ask import Ints
from skerry.core.placement.solve.desk import COUNT_SLACK, Desk, State
from skerry.core.types.problem import Bools, Floats

Short = tuple[tuple[str, int], ...]
TRIES_MAX = 400  # whole evaluations while instances are taken away


def meet_limits(desk: Desk, state: State) -> tuple[State, Short]:
    """Add what is missing, take away what is too much; what stays unmet is named. Regions first, then losses, then totals."""
    floor = desk.least.copy()
    state, short = _fill_regions(desk, state, floor)
    state = _within_total(desk, state, floor)
    state, unsurvived = _survive(desk, state)
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
    for _ in range(int(desk.most.sum()) + 1):
        counts = desk.all_counts(state)
        missing = survival_shortage(counts, _served(state), desk.rate, losses)
        if missing <= 0:
            return state, ()
        least_of_lost = int(np.sort(counts)[-losses]) if losses <= len(counts) else 0
        helps = counts < least_of_lost
        open_to = helps if _room(desk, state)[helps].any() else np.ones(len(counts), dtype=np.bool_)
        state, left = _add(desk, state, open_to, missing if helps.sum() > 0 else 1, once=True)
        if left > 0 and state.instances == int(counts.sum()):
            return state, (("survive_sites", missing),)
    return state, (("survive_sites", 1),)


def survival_shortage(counts: Ints, served_rps: float, rate: float, losses: int) -> int:
    """Instances missing for what is served, once the `losses` sites with most instances are gone."""
    need = int(np.ceil(served_rps / rate - COUNT_SLACK))
    remaining = int(counts.sum()) - int(np.sort(counts)[::-1][:losses].sum())
    return need - remaining


def _fill_total(desk: Desk, state: State) -> tuple[State, Short]:
    every = np.ones(len(desk.columns), dtype=np.bool_)
    state, missing = _add(desk, state, every, desk.ask.min_total - state.instances)
    return state, ((("min_total", missing),) if missing > 0 else ())


def _add(desk: Desk, state: State, inside: Bools, missing: int, *, once: bool = False) -> tuple[State, int]:
    """Up to `missing` more instances inside, each where J rises least; how many are still missing. `once`: only one step."""
    while missing > 0:
        gains = np.where(inside & _room(desk, state), desk.add_gains(state), -np.inf)
        if not len(gains) or gains.max() == -np.inf:
            break
        counts = desk.all_counts(state)
        at = int(gains.argmax())
        step = desk.min_site if counts[at] == 0 else 1
        if _flat(desk, state, gains, at) and not once:
            step = max(step, min(missing, int(desk.most[at] - counts[at]), _left_of_total(desk, state)))
        counts[at] += step
        state = desk.with_counts(counts)
        missing -= step
        if once:
            break
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
    """Take away what is least missed, until the maximum holds; with enough sites open, only a few are tried each time."""
    limit = desk.ask.max_total
    tries = TRIES_MAX
    while limit is not None and state.instances > limit:
        counts = desk.all_counts(state)
        loads = np.zeros(len(counts))
        loads[state.sites] = state.pieces.loads(len(state.sites))
        step = np.where(counts - 1 >= desk.min_site, 1, counts)
        can = np.flatnonzero((counts > 0) & (counts - step >= floor))
        if not len(can):
            break
        needed = np.maximum(0.0, loads[can] - (counts[can] - step[can]) * desk.rate)
        tried = can[ranked(needed)][: max(1, min(12, tries))]
        tries -= len(tried)
        after: list[tuple[float, int, State]] = []
        for at in tried:
            fewer = counts.copy()
            fewer[at] -= step[at]
            less = desk.with_counts(fewer)
            after.append((less.total, int(at), less))
        state = min(after, key=lambda entry: entry[:2])[2]
    return state


def _served(state: State) -> float:
    return float(state.pieces.rps.sum())
