"""A lower bound of J from prices: the dual of the whole problem, in closed form, so that anybody can check it.

With shadow prices λ[site, kind] ≥ 0 on what sites have and metro prices v[app, metro] on what metros ask,

    J ≥ Σ_app b(app) − Σ λ · capacity
    b = Σ_metro demand · min(v, lost) − Σ_site π(site) + κ · count limits
    π = max(0, most over min_site ≤ x ≤ max_site of  knapsack(r · x) − q · x)

for ANY λ and v, where knapsack(c) is the most of Σ rps · (v − cost) with rps ≤ demand and Σ rps ≤ c. Whole numbers, packing,
losses and minimums of regions are relaxed; total minimums, maximums and resources are kept. q is what an instance costs there
with shadow prices, a move and the count prices κ; r what it serves. |x − now| ≥ θ · (x − now) for any θ in [−1, 1], so an
instance that runs may count anything between price − move and price + move.
(Lagrangian relaxation of the
capacitated facility location problem: Geoffrion and McBride 1978; v is improved by Polyak's subgradient steps.)
"""

from dataclasses import dataclass

import numpy as np

from skerry.core.placement.solve.arrays import floats, sums
from skerry.core.placement.solve.desk import Desk, State
from skerry.core.types.problem import Floats

CLOSE = 0.002  # of J: nearer than this, v is not improved
STEPS_MAX = 24
SAFETY = 1e-9  # of all terms: sums of floats may err by less


@dataclass(frozen=True)
class Dual:
    """What proves an app's part of the bound: J at least `value` (shadow prices included) at these metro prices."""

    value: float
    metro_price: Floats  # per row of the desk
    count_price: tuple[float, float]  # per instance: of max_total, of min_total


def bound_app(desk: Desk, state: State) -> Dual:
    """The best bound found for one app on its desk; `state`, a solution, tells where to look."""
    target = state.total
    start = request_prices(desk)
    best = _improved(desk, state, start, target, (0.0, 0.0))
    for counts in _count_prices(desk, state):
        tried = _improved(desk, state, request_prices(desk, counts), target, counts)
        best = tried if tried.value > best.value else best
    return best


def request_prices(desk: Desk, counts: tuple[float, float] = (0.0, 0.0)) -> Floats:
    """v as if instances could be had by the request: no site profits from it."""
    if not len(desk.columns):
        return np.full(len(desk.rows), desk.lost)
    price = _least_price(desk, counts)
    return np.minimum(desk.lost, (desk.cost + (price / desk.rate)[:, None]).min(axis=0))


def value(desk: Desk, v: Floats, counts: tuple[float, float] = (0.0, 0.0)) -> tuple[float, Floats]:
    """The bound at v, and its slope by v (rps asked less rps served)."""
    high, low = counts
    asked = np.minimum(v, desk.lost)
    limit = desk.ask.max_total
    constant = -high * limit if limit is not None and high else 0.0
    constant += low * desk.ask.min_total + desk.moved_away
    price = _least_price(desk, counts)
    kept = desk.price + high - low - price  # what an instance counts below its price is paid for those of now
    constant += float(np.where(desk.now > 0, kept * desk.now, 0.0).sum())
    profits, served = _profits(desk, asked, price)
    found = float(desk.demand @ asked) - float(profits.sum()) + constant
    scale = float(desk.demand @ np.abs(asked)) + float(np.abs(profits).sum()) + abs(constant)
    return found - SAFETY * scale, np.where(v < desk.lost, desk.demand, 0.0) - served


def _least_price(desk: Desk, counts: tuple[float, float]) -> Floats:
    """q: price and move of an instance that does not run; the least it may count, of one that does."""
    high, low = counts
    price = desk.price + high - low
    return np.where(desk.now > 0, np.maximum(0.0, price - desk.move), price + desk.move)


def _profits(desk: Desk, v: Floats, price: Floats) -> tuple[Floats, Floats]:
    """π per site, and the rps that profitable sites would serve of each metro."""
    better = np.maximum(v - desk.cost, 0.0)
    full = better @ desk.demand
    some = np.flatnonzero(full > price * desk.min_site)  # the others cannot profit, whatever they serve
    profits = np.zeros(len(desk.columns))
    if not len(some):
        return profits, np.zeros(len(v))
    better, q = better[some], price[some]
    if desk.fits_one:
        profits[some] = full[some] - q * desk.min_site
        return profits, desk.demand * (better > 0.0).sum(axis=0)
    order = np.argsort(-better, axis=1, kind="stable")
    dear = np.take_along_axis(better, order, axis=1)
    rps = desk.demand[order]
    reached = np.cumsum(rps, axis=1)
    wanted = (rps * (dear > (q / desk.rate)[:, None])).sum(axis=1) / desk.rate
    counts = np.minimum(np.maximum(wanted, desk.min_site), desk.most[some])
    amount = np.clip((counts * desk.rate)[:, None] - (reached - rps), 0.0, rps)
    found = (amount * dear).sum(axis=1) - q * counts
    profits[some] = np.maximum(found, 0.0)
    amount = amount * ((found > 0.0)[:, None] & (dear > 0.0))
    return profits, sums(np.asarray(order.ravel(), dtype=np.int64), amount.ravel(), len(v))


def _improved(desk: Desk, state: State, start: Floats, target: float, counts: tuple[float, float]) -> Dual:
    found, slope = value(desk, start, counts)
    best = Dual(found, start, counts)
    if not len(desk.rows) or not len(state.sites):
        return best
    shared = _shared_prices(desk, state, start)
    tried, tried_slope = value(desk, shared, counts)
    v = start
    if tried > found:
        best, v, found, slope = Dual(tried, shared, counts), shared, tried, tried_slope
    part = 1.0
    for _ in range(STEPS_MAX):
        length = float(slope @ slope)
        if target - best.value <= CLOSE * abs(target) or length == 0.0:
            break
        v = np.maximum(v + part * max(target - found, 0.0) / length * slope, 0.0)
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
    price = _least_price(desk, (0.0, 0.0))[state.sites] * state.counts
    each = floats(price / np.maximum(loads, 1e-300))
    paid = np.full(len(desk.rows), 0.0)
    share = cost[pieces.site, pieces.metro] + each[pieces.site]
    rps = sums(pieces.metro, pieces.rps, len(desk.rows))
    paid = sums(pieces.metro, pieces.rps * share, len(desk.rows)) / np.maximum(rps, 1e-300)
    paid = np.where(rps > 0.0, paid, desk.lost)
    order = np.sort(cost, axis=0)
    second = order[1] if len(order) > 1 else np.full(len(desk.rows), desk.lost)
    return np.maximum(least, np.minimum(paid, np.minimum(second, desk.lost)))


def _count_prices(desk: Desk, state: State) -> list[tuple[float, float]]:
    """Prices of the count limits that a solution runs into."""
    ask = desk.ask
    found: list[tuple[float, float]] = []
    if not len(desk.columns):
        return []
    if ask.min_total > 0 and state.instances <= ask.min_total:
        found.append((0.0, float(np.maximum(0.0, desk.price + np.where(desk.now > 0, -desk.move, desk.move)).min())))
    if ask.max_total is not None and state.instances >= ask.max_total:
        gains = desk.unlimited_gains(state)
        found += [(part * float(gains.max()), 0.0) for part in (1.0, 0.5) if gains.max() > 0.0]
    return found
