"""What resources are worth at each site: shadow prices that bring what apps want to what there is.

As if requests could be divided at will: every row (a metro of a large app, all requests of a smaller one that go to its data,
or a metro's requests to all others) spreads over its nearest sites by cost + price with a soft minimum; a price follows the
logarithm of want over have (the inequality form of Sinkhorn's scaling; Cuturi 2013, Peyré and Cuturi 2019, section 4), softer
first and harder later.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skerry.core.placement.solve.arrays import floats, ranked, sums, upto
from skerry.core.placement.solve.ask import Ints, latency_cost, unserved_cost
from skerry.core.placement.solve.columns import KINDS, Columns
from skerry.core.placement.solve.plan import pair_apps
from skerry.core.types.problem import PRIORITY_NEUTRAL, Floats

COARSE_MS = (60.0, 20.0, 8.0)  # softness of the minimum while nothing is known
FINE_MS = (12.0, 6.0, 3.0, 1.5, 1.0)
COARSE_STEPS = 40  # at each softness
FINE_STEPS = 16
FULL = 0.995  # of a site's capacity is sold: whole instances seldom fill the rest
DETOUR_MS = 50.0  # what a request pays that finds its site full, in estimates
NEAREST = 40  # sites that a row looks at, the cheapest at the prices of the time
DRAWN_BY_DATA = 0.5  # calls per request from which on an app's requests go where its data is
FORBIDDEN = np.float32(1e30)

Small = NDArray[np.float32]


@dataclass(frozen=True)
class Rows:
    """Who asks: rps, what a request costs at each site (instances by the request), and the resources it takes."""

    cost: Small  # [rows, S] J per rps
    rps: Floats  # [rows]
    each: Floats  # [rows, KINDS] units per rps
    lost: Floats  # [rows] J per rps


def crowd_rows(columns: Columns, alone: Ints) -> Rows:
    """All apps but those `alone`, by metro: their policies, objectives and data calls apart."""
    demand, metros = columns.problem.demand, columns.rtt.shape[1]
    app = pair_apps(columns)
    kept = np.ones(columns.apps, dtype=np.bool_)
    kept[alone] = False
    pairs = np.flatnonzero(kept[app])
    app, metro, rps = app[pairs], demand.metro[pairs].astype(np.int64), demand.rps[pairs]
    total = sums(metro, rps, metros)
    units = columns.reserve[app] / columns.rate[app][:, None] * rps[:, None]
    taken = np.stack([sums(metro, floats(units[:, kind]), metros) for kind in range(KINDS)], axis=1)
    rows = np.flatnonzero(total > 0.0)
    each = taken[rows] / total[rows][:, None]
    weights = columns.problem.weights
    cost = weights.latency * columns.rtt[:, rows].T + each @ columns.price.T
    cost = np.where(columns.allowed.any(axis=0), cost, FORBIDDEN) if len(columns.allowed) else cost
    return Rows(cost.astype(np.float32), total[rows], each, np.full(len(rows), weights.unserved))


def app_rows(columns: Columns, apps: Ints, homes: Ints) -> Rows:
    """Some apps, each with all that it asks."""
    parts: list[Rows] = []
    for app in [int(app) for app in apps]:
        asked = columns.problem.apps[app]
        metros, rps = columns.problem.demand.of(app)
        serve = columns.serve_ms(app, metros.astype(np.int64), homes)
        cost = latency_cost(serve, asked.latency_objective_ms, asked.priority, columns.problem.weights)
        cost = cost + columns.instance_price(app) / columns.rate[app]
        cost = np.where(columns.allowed[columns.policy_of[app]] & (columns.fits(app) > 0), cost, FORBIDDEN)
        each = np.broadcast_to(columns.reserve[app] / columns.rate[app], (len(rps), KINDS))
        lost = np.full(len(rps), unserved_cost(asked.priority, columns.problem.weights))
        parts.append(Rows(cost.astype(np.float32), rps, each, lost))
    return joined(parts, columns.sites)


def joined(parts: list[Rows], sites: int) -> Rows:
    return Rows(
        np.concatenate([np.zeros((0, sites), dtype=np.float32), *(part.cost for part in parts)]),
        np.concatenate([np.zeros(0), *(part.rps for part in parts)]),
        np.concatenate([np.zeros((0, KINDS)), *(part.each for part in parts)]),
        np.concatenate([np.zeros(0), *(part.lost for part in parts)]),
    )


def drawn_rows(columns: Columns, apps: Ints, homes: Ints) -> Rows:
    """Apps whose requests go where their data is, a row each: the mean of all their metros."""
    parts: list[Rows] = []
    for app in [int(app) for app in apps]:
        one = app_rows(columns, np.array([app]), homes)
        total = float(one.rps.sum())
        mean = (one.rps / max(total, 1e-300)) @ one.cost
        parts.append(Rows(mean.astype(np.float32)[None, :], np.array([total]), one.each[:1], one.lost[:1]))
    return joined(parts, columns.sites)


def drawn_by_data(columns: Columns) -> Ints:
    """Apps whose data, more than their users, decides where they run."""
    app, _, calls = columns.calls
    return np.flatnonzero((sums(app, calls, columns.apps) >= DRAWN_BY_DATA) & (np.diff(columns.problem.demand.start) > 0))


def spread_cost(columns: Columns, rows: Rows, shadow: Floats) -> float:
    """About what all rows cost when they spread at these prices; what is too much somewhere pays its price and a detour more."""
    soft = FINE_MS[-1] * max(columns.problem.weights.latency, 1e-9)
    asked = rows.rps @ rows.each
    kinds = [int(kind) for kind in np.flatnonzero(asked > 0.0)]
    near = _nearest(rows, shadow, kinds)
    cost = np.take_along_axis(rows.cost, near, axis=1)
    share = _shares(rows, _paid(rows, cost, near, shadow, kinds), soft)
    served = float(rows.rps @ (share * cost).sum(axis=1)) + float((rows.rps * (1.0 - share.sum(axis=1))) @ rows.lost)
    for kind in kinds:
        weight = share * (rows.rps * rows.each[:, kind]).astype(np.float32)[:, None]
        over = np.maximum(0.0, np.bincount(near.ravel(), weight.ravel(), columns.sites) - columns.capacity[:, kind])
        detour = DETOUR_MS * columns.problem.weights.latency * float(rows.rps.sum()) / float(asked[kind])
        served += float(over @ (shadow[:, kind] + detour))
    return served


def thinned(rows: Rows, parts: int) -> Rows:
    """One of so many equal parts of each row."""
    return Rows(rows.cost, rows.rps / parts, rows.each, rows.lost)


def balanced(columns: Columns, rows: Rows, shadow: Floats, softness_ms: Sequence[float], steps: int) -> Floats:
    """[S, KINDS] in J per unit, from `shadow` on."""
    asked = rows.rps @ rows.each
    if not len(rows.rps) or not columns.sites:
        return shadow
    have = columns.capacity * FULL
    per_unit = np.divide(float(rows.rps.sum()), asked, out=np.zeros(KINDS), where=asked > 0.0)
    kinds = [int(kind) for kind in np.flatnonzero((asked > 0.0) & (have.sum(axis=0) < 100.0 * asked))]
    price = shadow
    for soft in [soft * max(columns.problem.weights.latency, 1e-9) for soft in softness_ms]:
        near = _nearest(rows, price, kinds)
        cost = np.take_along_axis(rows.cost, near, axis=1)
        for step in range(steps):
            share = _shares(rows, _paid(rows, cost, near, price, kinds), soft)
            want = np.zeros_like(have)
            for kind in kinds:
                weight = share * (rows.rps * rows.each[:, kind]).astype(np.float32)[:, None]
                want[:, kind] = np.bincount(near.ravel(), weight.ravel(), columns.sites)
            price = _moved(price, want, have, soft * per_unit / (1.0 + 2.0 * step / steps))
    return price


def _nearest(rows: Rows, price: Floats, kinds: Sequence[int]) -> Ints:
    """[rows, NEAREST]: the cheapest sites of each row."""
    count = min(NEAREST, rows.cost.shape[1])
    found = np.empty((len(rows.rps), count), dtype=np.int64)
    for start in range(0, len(found), 4096):
        part = slice(start, start + 4096)
        paid = rows.cost[part].copy()
        for kind in kinds:
            paid += rows.each[part, kind].astype(np.float32)[:, None] * price[:, kind].astype(np.float32)
        found[part] = np.argpartition(paid, count - 1, axis=1)[:, :count] if count < paid.shape[1] else upto(count)
    return found


def _paid(rows: Rows, cost: Small, near: Ints, price: Floats, kinds: Sequence[int]) -> Small:
    paid = cost.copy()
    for kind in kinds:
        paid += rows.each[:, kind].astype(np.float32)[:, None] * price[:, kind].astype(np.float32)[near]
    return paid


def _shares(rows: Rows, paid: Small, soft: float) -> Small:
    """[rows, NEAREST]: how every row spreads at what each site costs; `paid` is used up."""
    lost = rows.lost.astype(np.float32)
    least = np.minimum(paid.min(axis=1), lost)
    np.subtract(least[:, None], paid, out=paid)
    paid *= np.float32(1.0 / soft)
    np.exp(paid, out=paid)
    total = paid.sum(axis=1) + np.exp((least - lost) / np.float32(soft))
    paid /= total[:, None]
    return paid


def _moved(price: Floats, want: Floats, have: Floats, scale: Floats) -> Floats:
    ratio = np.log(np.maximum(want, 1e-12)) - np.log(np.maximum(have, 1e-12))
    return np.where(have > 0.0, np.maximum(0.0, price + scale * np.clip(ratio, -3.0, 3.0)), 0.0)


def largest(columns: Columns, count: int) -> Ints:
    """The apps that cost or take most, by index."""
    pairs = columns.problem.demand.rps
    rps = sums(pair_apps(columns), pairs, columns.apps)
    share = columns.reserve[:, :2] * (rps / columns.rate)[:, None]
    size = (share / np.maximum(share.sum(axis=0), 1e-300)).sum(axis=1)
    size = size + rps * columns.priority / PRIORITY_NEUTRAL / max(float(rps.sum()), 1e-300)
    return np.sort(ranked(-size, count)) if count < columns.apps else upto(columns.apps)
