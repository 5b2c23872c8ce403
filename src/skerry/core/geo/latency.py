"""How far users are from what serves them: the nearest of several places, and the spread over all users."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skerry.core.geo.rtt import Floats, Points, user_rtts_ms


class Spread(NamedTuple):
    """Of round trips, each weighted by its users."""

    mean_ms: float
    p50_ms: float
    p95_ms: float


def nearest_ms(users: Points, places: Points) -> tuple[NDArray[np.int64], Floats]:
    """For each of `users` the index of the place with the least round trip (the first of equals), and that in ms.

    `places` is not empty.
    """
    table = user_rtts_ms(users, places)
    nearest = np.argmin(table, axis=1)
    return nearest, table[np.arange(len(users)), nearest]


def spread(rtts_ms: Floats, weights: Floats) -> Spread | None:
    """Weighted mean and quantiles (the least round trip that so much of the weight does not exceed); None: no weight."""
    total = float(weights.sum())
    if total <= 0:
        return None
    order = np.argsort(rtts_ms, kind="stable")
    below = np.cumsum(weights[order])

    def quantile(share: float) -> float:
        at = min(int(np.searchsorted(below, share * total)), len(order) - 1)
        return float(rtts_ms[order[at]])

    return Spread(mean_ms=float(rtts_ms @ weights) / total, p50_ms=quantile(0.5), p95_ms=quantile(0.95))
