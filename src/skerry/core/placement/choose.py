"""One app of the running platform as the solver's question, and the solver's answer as counts per site.

seats, demand (or where users are), prices, what runs ─► Ask ─► what runs has to earn its place ─► solve.one_app.decide ─► Wish

Several versions with traffic count as one: an instance of any serves `rps_per_instance`, and a site that runs the app runs each.
Pure. Sites are both where instances run and where users ask, in the order of their ids.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from skerry.core.placement.ground import Ground, ground_of
from skerry.core.placement.seats import Seat
from skerry.core.placement.solve.arrays import floats, sums
from skerry.core.placement.solve.ask import Ask, Choice, Ints, latency_cost
from skerry.core.placement.solve.one_app import decide, review
from skerry.core.placement.world import World
from skerry.core.policy.scale import instances_min
from skerry.core.policy.shapes import Shapes
from skerry.core.types.app import Scale, Version
from skerry.core.types.ids import SiteId, VersionId
from skerry.core.types.problem import Bools, Floats
from skerry.core.types.resources import Resources
from skerry.core.types.settings import NO_PRICES, SitePrices

LOAD_SLACK = 1e-9  # instances: a load this far above a whole number is rounding
PRIORITY_SERVED = 5  # below, the way to a far city would cost more than to serve nobody
NOTHING_RPS = 1e-6  # asked by nobody

Shares = Sequence[tuple[Version, float]]
"""Versions with their percent of traffic."""
Had = Mapping[SiteId, Mapping[VersionId, int]]
"""What runs where."""


@dataclass(frozen=True)
class Question:
    """`ask` with all that runs as `now`; `known`: somebody counted the demand."""

    ask: Ask
    known: bool
    ground: Ground


@dataclass(frozen=True)
class Wish:
    """What each site that is to run it should have of each version; demand that is served, and demand that has no room."""

    counts: Mapping[SiteId, Mapping[VersionId, int]]
    load_rps: float
    unserved_rps: float
    units: Ints
    question: Question


def wish(world: World, scale: Scale, shares: Shares, seats: Sequence[Seat], had: Had) -> Wish:
    """`seats`: one per site of the world, by id, not filled."""
    question = make_question(world, scale, shares, seats, had)
    ask = replace(question.ask, now=_earning(question.ask, world.settings.keep_share))
    choice = decide(ask)
    after = _earning(replace(ask, now=choice.counts), world.settings.keep_share) if ask.now.any() else choice.counts
    if _idles(ask, choice, after):  # beside what is new, something that runs has nothing to do any more
        ask = replace(ask, now=np.minimum(ask.now, after))
        choice = decide(ask)
    if ask.region_min and scale.min_per_site == 0:  # what a region insists on may serve everybody: no more is needed then
        choice = decide(replace(ask, least=_least_by_region(ask, choice)))
    loads = sums(choice.flow_site, choice.flow_rps, len(seats))
    units = _units(ask, choice, loads, scale, len(shares))
    chosen = [(at, seat.site.id) for at, seat in enumerate(seats) if units[at] > 0]
    return Wish(
        counts={site: _split(int(units[at]), float(loads[at]), scale, shares) for at, site in chosen},
        load_rps=sum(map(float, loads)),
        unserved_rps=float(choice.unserved.sum()) if question.known else 0.0,
        units=units,
        question=question,
    )


def make_question(world: World, scale: Scale, shares: Shares, seats: Sequence[Seat], had: Had) -> Question:
    """What the app asks of the world as it is; `seats` as of `wish`."""
    ground = ground_of([seat.site for seat in seats], world.rtts_ms)
    demand, known = demand_of(world, seats)
    versions = max(1, len(shares))
    now = np.zeros(len(seats), dtype=np.int64)
    if had:
        now[:] = [_now(had.get(seat.site.id, {}), versions) for seat in seats]
    room = np.array([seat.most() for seat in seats], dtype=np.int64)
    each = scale.min_per_site * versions
    cut_off = [at for at, seat in enumerate(seats) if seat.site.state == "cut_off"]
    room[cut_off] = np.minimum(room, np.maximum(now, each))[cut_off]
    least, limits = _limits(scale, seats, room, versions)
    reserve = _mean_reserve(shares)
    ask = Ask(
        demand=demand,
        serve_ms=_serve_ms(ground, world, scale, seats),
        price=world.settings.cost * np.array([_share_of_node(seat.view.shaped(), reserve) for seat in seats]),
        shadow=_worths(world.prices, seats, reserve),
        room=room,
        now=now,
        least=least,
        rps_per_instance=scale.rps_per_instance,
        min_total=limits.min_total,
        max_total=scale.max_total,
        min_site=versions,
        max_site=limits.max_site,
        region_min=tuple((_region(seats, entry.region), entry.count * versions) for entry in scale.region_min),
        survive_sites=scale.survive_sites,
        latency_objective_ms=scale.latency_objective_ms,
        priority=max(PRIORITY_SERVED, scale.priority),
        weights=world.settings.weights,
    )
    return Question(ask, known, ground)


def value(question: Question, units: Ints) -> float:
    """What J costs with so many instances, shadow prices included and moves left out."""
    ask = replace(question.ask, now=units, least=np.zeros_like(units), room=np.maximum(question.ask.room, units), max_site=None)
    ask = replace(ask, max_total=None, min_site=1)
    return review(ask).total + float(ask.shadow @ units)


def units_of(seats: Sequence[Seat]) -> Ints:
    """What the seats hold, of all versions."""
    return np.array([sum(seat.counts.values()) for seat in seats], dtype=np.int64)


@dataclass(frozen=True)
class _Limits:
    min_total: int
    max_site: int | None


def _limits(scale: Scale, seats: Sequence[Seat], room: Ints, versions: int) -> tuple[Ints, _Limits]:
    """What has to be at each site; where `max_total` is too short for that, pinned sites first, and demand chooses the others."""
    each = scale.min_per_site * versions
    pins = {site: order for order, site in enumerate(scale.pin)}
    pinned = np.array([seat.site.id in pins for seat in seats], dtype=np.bool_)
    least = np.minimum(np.where(pinned, max(each, versions), each), room)
    least_total = instances_min(scale) * versions
    max_site = None if scale.max_per_site is None else scale.max_per_site * versions
    limit = scale.max_total
    if limit is None or int(least.sum()) <= limit:
        return least, _Limits(least_total if limit is None else min(limit, least_total), max_site)
    left = limit
    first = np.zeros_like(least)
    for at in sorted(np.flatnonzero(pinned).tolist(), key=lambda at: pins[seats[at].site.id]):
        first[at] = min(left, int(least[at]))
        left -= int(first[at])
    wanted = max(versions, each)
    return first, _Limits(min(limit, int(np.minimum(room, wanted).sum())), wanted)


def _least_by_region(ask: Ask, choice: Choice) -> Ints:
    """The largest sites of each region keep what the region insists on."""
    least = ask.least.copy()
    for mask, count in ask.region_min:
        left = count - int(least[mask].sum())
        for at in sorted(np.flatnonzero(mask).tolist(), key=lambda at: (-int(choice.counts[at]), at)):
            more = max(0, min(left, int(choice.counts[at] - least[at])))
            least[at] += more
            left -= more
    return least


def _units(ask: Ask, choice: Choice, loads: Floats, scale: Scale, versions: int) -> Ints:
    """What demand needs. What minimums need beyond is spread later, where there are fewest.

    Losses that cannot be survived get nothing: more instances in the same sites help nobody.
    """
    if scale.survive_sites and all(limit != "survive_sites" for limit, _ in choice.short):
        return choice.counts
    need = np.ceil(loads / ask.rps_per_instance - LOAD_SLACK).astype(np.int64)
    return np.minimum(np.maximum(np.maximum(need, ask.least), np.where(choice.counts > 0, versions, 0)), choice.counts)


def _split(units: int, load: float, scale: Scale, shares: Shares) -> dict[VersionId, int]:
    """Of each version what its share of the load needs, and one at least."""
    if len(shares) == 1:
        return {shares[0][0].id: units}
    whole = sum(percent for _, percent in shares)
    floor = max(1, scale.min_per_site)
    return {
        version.id: max(floor, int(np.ceil(load * percent / whole / scale.rps_per_instance - LOAD_SLACK)))
        for version, percent in shares
    }


def _idles(ask: Ask, choice: Choice, earning: Ints) -> bool:
    """Whether a site that runs it now is open for nobody; or, as losses keep all that runs, holds too much."""
    less = (earning < choice.counts) & (ask.now > 0)
    return bool((less & (earning == 0)).any() or (ask.survive_sites > 0 and less.any()))


def _earning(ask: Ask, keep_share: float) -> Ints:
    """What of `now` counts as running. What is idle does not, nor does a site that saves its users too little: it has to
    compete as if it were new. Weakest first, as one can stand in for another; what minimums need anyway stays."""
    if not ask.now.any():
        return ask.now
    held = review(ask)
    loads = sums(held.flow_site, held.flow_rps, len(ask.now))
    need = np.ceil(loads / ask.rps_per_instance - LOAD_SLACK).astype(np.int64)
    running = np.minimum(ask.now, np.maximum(ask.least, need))
    running = np.where(ask.room > 0, running, ask.now)
    some = np.flatnonzero((running > 0) & (ask.room > 0))
    if len(some) < 2:
        return running
    cost = latency_cost(ask.serve_ms[:, some], ask.latency_objective_ms, ask.priority, ask.weights)
    threshold = keep_share * (ask.price + ask.shadow + ask.weights.move)[some]
    free = ask.least[some] == 0
    for _ in range(len(some)):
        worth = np.where(free, _regret(cost, ask.demand), np.inf) - threshold
        weakest = int(worth.argmin())
        if worth[weakest] >= 0.0:
            break
        free[weakest] = False
        without = np.where(np.arange(len(running)) == some[weakest], 0, running)
        if _enough(ask, without):
            running = without
            cost[:, weakest] = np.inf
    return running


def _enough(ask: Ask, units: Ints) -> bool:
    """Whether the minimums hold of so many."""
    return (
        int(units.sum()) >= ask.min_total
        and int((units > 0).sum()) > ask.survive_sites
        and all(int(units[mask].sum()) >= count for mask, count in ask.region_min)
    )


def _regret(cost: Floats, demand: Floats) -> Floats:
    """By site: what its users would pay more at the next one."""
    rows = np.arange(len(cost))
    best = cost.argmin(axis=1)
    first = cost[rows, best]
    others = cost.copy()
    others[rows, best] = np.inf
    second = others.min(axis=1)
    margin = np.where(np.isfinite(second), second - first, np.inf)
    more = np.multiply(demand, margin, out=np.zeros(len(demand)), where=demand > 0.0)
    return sums(best, floats(more), cost.shape[1])


def demand_of(world: World, seats: Sequence[Seat]) -> tuple[Floats, bool]:
    """By site; and whether somebody counted, or users stand for it."""
    names = [seat.site.id for seat in seats]
    if world.demand is not None:
        rps = np.array([max(0.0, world.demand.get(name, 0.0)) for name in names])
        if float(rps.sum()) > NOTHING_RPS:
            return rps, True
    users = np.array([max(0.0, world.users.get(name, 0.0)) for name in names])
    total = float(users.sum())
    prior = users / total if total > 0.0 else np.full(len(names), 1.0 / max(1, len(names)))
    return prior * world.settings.prior_rps, False


def _serve_ms(ground: Ground, world: World, scale: Scale, seats: Sequence[Seat]) -> Floats:
    """[users' site, site]: the way there, and from there to the data that a request calls, where its home is known."""
    index = {seat.site.id: at for at, seat in enumerate(seats)}
    serve = ground.rtt_ms
    for call in scale.calls:
        home = index.get(world.homes.get(call.data, SiteId("")))
        if home is not None:
            serve = serve + call.per_request * ground.rtt_ms[:, home][None, :]
    return serve


def _now(had: Mapping[VersionId, int], versions: int) -> int:
    """What runs, in instances of the versions that are wanted now: a new version takes the place of the old."""
    running = [count for count in had.values() if count > 0]
    if not running:
        return 0
    return sum(running) if len(running) == versions else max(running) * versions


def _region(seats: Sequence[Seat], region: str) -> Bools:
    return np.array([seat.site.region == region for seat in seats], dtype=np.bool_)


def _mean_reserve(shares: Shares) -> tuple[float, float, float]:
    """Of one instance, versions by their share: cpu, memory, disk."""
    whole = sum(percent for _, percent in shares) or 1.0
    amounts = [(version.limits.reserve, percent / whole) for version, percent in shares]
    return (
        sum(reserve.cpu_millicores * part for reserve, part in amounts),
        sum(reserve.memory_mib * part for reserve, part in amounts),
        sum(reserve.disk_mib * part for reserve, part in amounts),
    )


def _share_of_node(shapes: Shapes, reserve: tuple[float, float, float]) -> float:
    """Half its share of a mean node's cpu, half that of its memory; each node costs the same."""
    total: Resources = shapes.total
    nodes = shapes.count
    cpu = reserve[0] * nodes / total.cpu_millicores if total.cpu_millicores else 0.0
    memory = reserve[1] * nodes / total.memory_mib if total.memory_mib else 0.0
    return 0.5 * (cpu + memory)


def _worths(prices: Mapping[SiteId, SitePrices], seats: Sequence[Seat], reserve: tuple[float, float, float]) -> Floats:
    if not prices:
        return np.zeros(len(seats))
    return np.array([_worth(prices.get(seat.site.id, NO_PRICES), reserve) for seat in seats])


def _worth(prices: SitePrices, reserve: tuple[float, float, float]) -> float:
    return prices.cpu_millicores * reserve[0] + prices.memory_mib * reserve[1] + prices.disk_mib * reserve[2]
