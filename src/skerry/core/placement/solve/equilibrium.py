"""Shadow prices at which what is wanted is what there is.

Every row spreads over sites by cost + price with a soft minimum: J as if requests could be divided at will, made smooth
(entropic regularisation; Cuturi 2013, Peyré and Cuturi 2019, section 4). Its dual is concave in the prices; projected Newton
steps (Bertsekas 1982) climb it, softer first and harder later.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from skerry.core.placement.solve.arrays import floats, upto
from skerry.core.placement.solve.ask import Ints
from skerry.core.placement.solve.columns import KINDS
from skerry.core.placement.solve.costs import Small
from skerry.core.types.problem import Floats

HALVINGS = 5  # of a step that does not climb
CLOSE = 1e-5  # of the dual: a step that gains less is the last at its softness
DAMPING = 1e-3
CHUNK = 512  # rows that are spread together
PLENTY = 100.0  # a kind of which there is so many times what is asked has no price


@dataclass(frozen=True)
class Rows:
    """Who asks: rps, what a request costs at each site (without shadow prices; infinite: not there), what it takes."""

    cost: Small  # [rows, S] J per rps
    rps: Floats  # [rows]
    each: Floats  # [rows, KINDS] units per rps
    lost: Floats  # [rows] J per rps

    @property
    def units(self) -> Floats:
        """[KINDS] asked in all."""
        return self.rps @ self.each

    def at(self, rows: Ints) -> "Rows":
        return Rows(self.cost[rows], self.rps[rows], self.each[rows], self.lost[rows])


def joined(parts: Sequence[Rows], sites: int) -> Rows:
    return Rows(
        np.concatenate([np.zeros((0, sites), dtype=np.float32), *(part.cost for part in parts)]),
        np.concatenate([np.zeros(0), *(part.rps for part in parts)]),
        np.concatenate([np.zeros((0, KINDS)), *(part.each for part in parts)]),
        np.concatenate([np.zeros(0), *(part.lost for part in parts)]),
    )


@dataclass(frozen=True)
class Settled:
    """Prices [S, KINDS] in J per unit, and the smooth dual there: at least what all rows cost, less what smoothness adds."""

    price: Floats
    value: float


def settled(rows: Rows, have: Floats, price: Floats, softness: Sequence[tuple[float, int]]) -> Settled:
    """From `price` on, at each softness (J per rps) so many steps. `have` [S, KINDS]."""
    asked = rows.units
    kinds = np.flatnonzero((asked > 0.0) & (have.sum(axis=0) < PLENTY * asked)).tolist()
    found = Settled(price, 0.0)
    if not len(rows.rps) or not have.size or not kinds:
        return found
    for soft, steps in softness:
        market = _Smooth(rows, have, kinds, soft)
        for _ in range(steps):
            after = market.step(found.price)
            gained = after.value - found.value if after.price is not found.price else 0.0
            found, close = after, gained <= CLOSE * abs(after.value)
            if close:
                break
    return found


class _Smooth:
    """The dual at one softness."""

    def __init__(self, rows: Rows, have: Floats, kinds: list[int], soft: float) -> None:
        self._rows, self._have, self._kinds, self._soft = rows, have, kinds, soft
        self._each = rows.each.astype(np.float32)
        self._weight = (rows.rps[:, None] * rows.each).astype(np.float32)
        self._lost = rows.lost.astype(np.float32)
        asked = rows.units
        self._unit = np.divide(float(rows.rps.sum()), asked, out=np.zeros(KINDS), where=asked > 0.0)  # rps of a unit
        self._last: tuple[Floats, float, Small] | None = None  # where the last step ended: the next one begins there

    def step(self, price: Floats) -> Settled:
        known = self._last is not None and self._last[0] is price
        value, share = self._last[1:] if self._last is not None and known else self._at(price)
        want = self._wanted(share)
        slope = want - self._have
        free = (price > 0.0) | (slope > 0.0)
        site, kind = np.nonzero(free & (self._have > 0.0))
        some = np.isin(kind, self._kinds)
        site, kind = site[some], kind[some]
        if not len(site):
            return Settled(price, value)
        change = np.zeros_like(price)
        change[site, kind] = np.linalg.solve(self._bent(share, site, kind, want), slope[site, kind])
        reach = (10.0 * self._soft) * self._unit + 0.5 * price
        change = np.clip(change, -reach, reach)
        part = 1.0
        for _ in range(HALVINGS):
            tried = np.maximum(0.0, price + part * change)
            after, share = self._at(tried)
            if after >= value:
                self._last = (tried, after, share)
                return Settled(tried, after)
            part *= 0.4
        return Settled(price, value)

    def _at(self, price: Floats) -> tuple[float, Small]:
        """The dual, and how every row spreads."""
        share = np.empty_like(self._rows.cost)
        value = 0.0
        for start in range(0, len(share), CHUNK):
            value += self._spread(price, slice(start, start + CHUNK), share[start : start + CHUNK])
        return value - float((price * self._have).sum()), share

    def _spread(self, price: Floats, part: slice, share: Small) -> float:
        """Of some rows, which fit the processor's cache together: what they cost, and their shares, written to `share`."""
        soft = np.float32(self._soft)
        np.copyto(share, self._rows.cost[part])
        for kind in self._kinds:
            if price[:, kind].any():
                share += self._each[part, kind, None] * price[:, kind].astype(np.float32)
        lost = self._lost[part]
        least = np.minimum(share.min(axis=1), lost)
        np.subtract(least[:, None], share, out=share)
        share *= np.float32(1.0) / soft
        np.exp(share, out=share)
        total = share.sum(axis=1) + np.exp((least - lost) / soft)
        share /= total[:, None]
        return float(self._rows.rps[part] @ (least - soft * np.log(total)).astype(np.float64))

    def _wanted(self, share: Small) -> Floats:
        want = np.zeros_like(self._have)
        for kind in self._kinds:
            want[:, kind] = self._weight[:, kind] @ share
        return want

    def _bent(self, share: Small, site: Ints, kind: Ints, want: Floats) -> Floats:
        """Minus the second derivative by the free prices, a little damped."""
        rows = self._rows
        taken = np.take(share, site, axis=1)
        root = np.sqrt(rows.rps / self._soft)
        for one in np.unique(kind):  # most often one
            some = slice(None) if (kind == one).all() else kind == one
            taken[:, some] *= (root * rows.each[:, one]).astype(np.float32)[:, None]
        bent = -floats(taken.T @ taken)  # of a matrix with itself: half the work
        for left in self._kinds:
            for right in self._kinds:
                weight = (rows.rps * rows.each[:, left] * rows.each[:, right] / self._soft).astype(np.float32)
                both = floats(weight @ share)
                at_left, at_right = np.flatnonzero(kind == left), np.flatnonzero(kind == right)
                _, here, there = np.intersect1d(site[at_left], site[at_right], return_indices=True)
                bent[at_left[here], at_right[there]] += both[site[at_left[here]]]
        own = np.diagonal(bent).copy()
        scale = np.maximum(want[site, kind], 1e-12) / (self._soft * self._unit[kind])
        bent[upto(len(site)), upto(len(site))] = own + DAMPING * scale
        return bent
