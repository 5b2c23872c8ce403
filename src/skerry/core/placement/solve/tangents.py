"""A latency objective and several data: the least over all homes, by tangents of lateness that are nearer to where it is reached.

`homes` bounds lateness, which is convex in the ms of a request, by a tangent: late for some metros, in time for the others. Any
choice is a bound, most are poor ones: with other homes others are late. The best lies between several homes, so metros are late
here where they are with all data as far as it is from these on average; and the next home to count is the one that the last
tangent holds to be cheapest (Frank and Wolfe 1956, in the slopes). Or the datum called most counts alone, exactly, the others at
no distance: better for who runs at one home anyway.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from skerry.core.placement.solve.arrays import floats
from skerry.core.placement.solve.ask import Ask, Ints
from skerry.core.placement.solve.columns import Columns
from skerry.core.placement.solve.homes import Requests, least_by_home, moving_cost
from skerry.core.types.problem import Floats

TANGENTS_MAX = 6

Tangents = dict[int, tuple[int, ...]]  # app: homes (sites), as often as each counts


@dataclass(frozen=True)
class Least:
    """At least what an app's requests and moves cost over all homes, and the homes its tangent lies between."""

    value: float
    homes: tuple[int, ...]


def curved(columns: Columns, app: int) -> bool:
    """Whether tangents matter to it."""
    return len(columns.loose[app]) > 1 and columns.problem.apps[app].latency_objective_ms is not None


def least_between(
    columns: Columns, app: int, ask: Ask, homes: Ints | None, *, said: tuple[int, ...] = (), count_price: float = 0.0
) -> Least:
    """`ask`: the app's question with its movable data at no distance. `homes`: of all data, where to begin; without them, only
    the tangent between the homes `said`. `count_price`: what every instance costs more."""
    data = columns.loose[app]
    calls = columns.calls_of(app, data)
    first = int(np.lexsort((data, -calls))[0])
    asked = replace(ask, price=floats(ask.price + count_price))
    moves = np.stack([moving_cost(columns, int(at)) for at in data])
    alone = Requests(columns, app, asked, calls[first : first + 1], np.zeros(columns.sites))
    best = Least(float(least_by_home(alone, moves[first : first + 1]).min()), said)
    between = said if homes is None else (int(homes[data[first]]),)
    for _ in range(TANGENTS_MAX if homes is not None else min(1, len(said))):
        found = least_by_home(Requests(columns, app, asked, calls, _away(columns, float(calls.sum()), between)), moves)
        value = float(found.min(axis=1).sum())
        best = Least(value, between) if value > best.value else best
        between = (*between, int(found[first].argmin()))
    return best


def _away(columns: Columns, calls: float, homes: Sequence[int]) -> Floats:
    """[S]: ms of a request's data calls with all data between these homes."""
    return floats(calls * columns.site_rtt[:, list(homes)].mean(axis=1))
