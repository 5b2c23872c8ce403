"""A lower bound of J from prices: the dual of the whole problem, in closed form, so that anybody can check it.

With shadow prices λ[site, kind] ≥ 0 on what sites have, metro prices v[app, metro] on what metros ask, and count prices
low, high ≥ 0 on an app's least and most instances in total,

    J ≥ Σ_app b(app) − Σ λ · capacity
    b = Σ_metro demand · min(v, lost) + low · min_total − high · max_total + move · Σ now − Σ_site π(site)
    π = max(0, most over whole x, min_site ≤ x ≤ room, of  knapsack(r · x) − p · x − move · (|x − now| − now))

for ANY λ and v. p is the price of an instance with its shadow prices, + high − low; r what it serves; knapsack(c) the most of
Σ rps · (v − cost) with rps ≤ demand and Σ rps ≤ c, where cost is what a request costs there in J (latency and late terms). It is
concave in x and the rest convex, so that the best whole x is beside the best x. Relaxed: packing (but what fits one node stays),
losses and minimums of regions. Kept: resources of a site in sum, whole numbers, totals, minimums and maximums per site.
(Lagrangian relaxation of capacitated facility location: Geoffrion and McBride 1978; Cornuéjols, Sridharan and Thizy 1991. Prices
are improved by Polyak's subgradient steps; a bound holds at whatever prices they end.)

Data that may move is bounded over all homes at once; see `homes`.
"""

from dataclasses import dataclass

import numpy as np

from skerry.core.placement.solve.arrays import floats, sums
from skerry.core.placement.solve.desk import Desk, State
from skerry.core.types.problem import Floats

CLOSE = 0.002  # of J: nearer than this, v is not improved
STEPS_MAX = 24
SAFETY = 1e-9  # of all terms: sums of floats may err by less
CountPrices = tuple[float, float]  # J per instance, of the most and of the least in total


@dataclass(frozen=True)
class Dual:
    """What proves an app's part of the bound: J at least `value` (shadow prices included) at these metro prices."""

    value: float
    metro_price: Floats  # per row of the desk
    count_price: CountPrices


def bound_app(desk: Desk, state: State) -> Dual:
    """The best bound found for one app on its desk; `state`, a solution, tells where to look."""
    best = _improved(desk, state, (0.0, 0.0))
    for counts in count_prices(desk, state):
        tried = _improved(desk, state, counts)
        best = tried if tried.value > best.value else best
    return best


def bound_with(desk: Desk, v: Floats, counts: CountPrices) -> Dual:
    """The bound at other count prices; v stays."""
    return Dual(value(desk, v, counts)[0], v, counts)


def instance_constant(desk: Desk, counts: CountPrices) -> float:
    """What a bound by requests adds for whole instances: count limits, and what instances of now cost beyond `price_floor`."""
    price = desk.price + counts[0] - counts[1]
    floor = price_floor(price, desk.now, desk.move)
    runs = np.stack([np.zeros(len(price)), np.minimum(desk.now, desk.most), desk.most])
    beyond = ((price - floor) * runs + desk.move * np.abs(runs - desk.now)).min(axis=0)
    found = _count_constant(desk, counts) + float(beyond.sum()) + desk.moved_away
    return found - SAFETY * (abs(found) + float(np.abs(beyond).sum()))


def _count_constant(desk: Desk, counts: CountPrices) -> float:
    limit = desk.ask.max_total
    return counts[1] * desk.ask.min_total - (counts[0] * limit if limit is not None else 0.0)


def request_prices(desk: Desk, counts: CountPrices) -> Floats:
    """v as if instances could be had by the request: no site profits from it."""
    if not len(desk.columns):
        return np.full(len(desk.rows), desk.lost)
    price = price_floor(desk.price + counts[0] - counts[1], desk.now, desk.move)
    return np.minimum(desk.lost, (desk.cost + (price / desk.rate)[:, None]).min(axis=0))


def price_floor(price: Floats, now: "np.ndarray[tuple[int], np.dtype[np.int64]]", move: float) -> Floats:
    """The least that an instance costs, moves included: one that runs may save the move of its end."""
    return floats(np.maximum(0.0, price + np.where(now > 0, -move, move)))


def value(desk: Desk, v: Floats, counts: CountPrices) -> tuple[float, Floats]:
    """The bound at v, and its slope by v (rps asked less rps served)."""
    high, low = counts
    asked = np.minimum(v, desk.lost)
    constant = _count_constant(desk, counts) + desk.move * float(desk.now.sum()) + desk.moved_away
    profits, served = _profits(desk, asked, floats(desk.price + high - low))
    found = float(desk.demand @ asked) - float(profits.sum()) + constant
    scale = float(desk.demand @ np.abs(asked)) + float(np.abs(profits).sum()) + abs(constant)
    return found - SAFETY * scale, np.where(v < desk.lost, desk.demand, 0.0) - served


def _profits(desk: Desk, v: Floats, price: Floats) -> tuple[Floats, Floats]:
    """π per site, and the rps that profitable sites would serve of each metro."""
    profits, served = np.zeros(len(desk.columns)), np.zeros(len(v))
    better = np.maximum(v - desk.cost, 0.0)
    some = np.flatnonzero(better @ desk.demand > _least_paid(desk, price))  # others cannot profit, whatever they serve
    if not len(some):
        return profits, served
    better, q, now, most = better[some], price[some], desk.now[some], desk.most[some]
    order = np.argsort(-better, axis=1, kind="stable")
    dear = np.take_along_axis(better, order, axis=1)
    rps = desk.demand[order]
    before = np.cumsum(rps, axis=1) - rps
    grown, kept = (_worth(dear, rps, q + move, most, desk.rate) for move in (desk.move, -desk.move))
    best = np.clip(np.minimum(np.maximum(now, grown), kept), desk.min_site, most)
    taken = np.zeros_like(rps)
    for counts in (np.floor(best + 1e-9), np.ceil(best - 1e-9)):
        amount = np.clip((counts * desk.rate)[:, None] - before, 0.0, rps)
        found = (amount * dear).sum(axis=1) - q * counts - desk.move * (np.abs(counts - now) - now)
        more = found > profits[some]
        profits[some] = np.where(more, found, profits[some])
        taken[more] = np.where(dear[more] > 0.0, amount[more], 0.0)
    return profits, sums(np.asarray(order.ravel(), dtype=np.int64), taken.ravel(), len(v))


def _least_paid(desk: Desk, price: Floats) -> Floats:
    """The least of p · x + move · (|x − now| − now) over the counts a site may have."""
    counts = np.stack([np.full(len(price), desk.min_site), np.clip(desk.now, desk.min_site, desk.most), desk.most])
    return floats((price * counts + desk.move * (np.abs(counts - desk.now) - desk.now)).min(axis=0))


def _worth(dear: Floats, rps: Floats, each: Floats, most: "np.ndarray[tuple[int], np.dtype[np.int64]]", rate: float) -> Floats:
    """How many instances pay, at `each`: parts of one count."""
    wanted = (rps * (dear > (each / rate)[:, None])).sum(axis=1) / rate
    return floats(np.where(each < 0.0, most, wanted))


def _improved(desk: Desk, state: State, counts: CountPrices) -> Dual:
    v = request_prices(desk, counts)
    found, slope = value(desk, v, counts)
    best = Dual(found, v, counts)
    if not len(desk.rows) or not len(state.sites):
        return best
    shared = _shared_prices(desk, state, v)
    tried, tried_slope = value(desk, shared, counts)
    if tried > found:
        best, v, found, slope = Dual(tried, shared, counts), shared, tried, tried_slope
    part = 1.0
    for _ in range(STEPS_MAX):
        length = float(slope @ slope)
        if state.total - best.value <= CLOSE * abs(state.total) or length == 0.0:
            break
        v = np.maximum(v + part * max(state.total - found, 0.0) / length * slope, 0.0)
        found, slope = value(desk, v, counts)
        if found > best.value:
            best = Dual(found, v, counts)
        else:
            part *= 0.7
            if part < 0.05:
                break
    return best


def _shared_prices(desk: Desk, state: State, least: Floats) -> Floats:
    """v from a solution: the users of a site share what it costs, nobody above what the next site would cost them."""
    cost = desk.cost[state.sites]
    pieces = state.pieces
    loads = pieces.loads(len(state.sites))
    price = price_floor(desk.price, desk.now, desk.move)[state.sites] * state.counts
    each = floats(price / np.maximum(loads, 1e-300))
    share = cost[pieces.site, pieces.metro] + each[pieces.site]
    rps = sums(pieces.metro, pieces.rps, len(desk.rows))
    paid = sums(pieces.metro, pieces.rps * share, len(desk.rows)) / np.maximum(rps, 1e-300)
    paid = np.where(rps > 0.0, paid, desk.lost)
    order = np.sort(cost, axis=0)
    second = order[1] if len(order) > 1 else np.full(len(desk.rows), desk.lost)
    return np.maximum(least, np.minimum(paid, np.minimum(second, desk.lost)))


def count_prices(desk: Desk, state: State) -> list[CountPrices]:
    """Prices of the count limits that a solution runs into."""
    ask = desk.ask
    found: list[CountPrices] = []
    if not len(desk.columns):
        return []
    if ask.min_total > 0 and state.instances <= ask.min_total:
        found.append((0.0, float(price_floor(desk.price, desk.now, desk.move).min())))
    if ask.max_total is not None and state.instances >= ask.max_total:
        gains = desk.unlimited_gains(state)
        found += [(part * float(gains.max()), 0.0) for part in (1.0, 0.5) if gains.max() > 0.0]
    return found
