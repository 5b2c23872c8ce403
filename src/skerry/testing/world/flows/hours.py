"""How demand follows the day: each metro by its local hour."""

from collections.abc import Callable

import numpy as np

from skerry.core.geo.demand import activity
from skerry.core.types.problem import Floats, Problem

HOUR_MS = 3_600_000
HOURS = 24


def hourly(problem: Problem, start_hour: float) -> Callable[[int], Floats]:
    """A factor per metro for each virtual time. The world's demand is taken to be that of its own busiest hour.

    Local hours follow longitude, which is within an hour or two of what clocks say.
    """
    offset = np.array([metro.lon / 15.0 for metro in problem.metros])
    users = np.bincount(problem.demand.metro, problem.demand.rps, len(problem.metros))
    busiest = max(range(HOURS), key=lambda hour: (float(users @ activity(offset + hour)), -hour))
    peak = activity(offset + busiest)
    return lambda at_ms: activity(offset + start_hour + at_ms / HOUR_MS) / peak
