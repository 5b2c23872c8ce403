"""The model of round trips nobody measured: by distance, corrected by the regions of both ends.

    ms = the lower of two lines over the distance + (offset + slope × km / 1,000) of both regions × min(1, km / 1,000)

never below light in fibre (0.01 ms for each km of the way there and back). The numbers are `scripts/rtt.py`'s, fitted to pings;
docs/howto/worlds.md has the errors by region. Short paths detour more than long ones, hence two lines; between regions
the sea decides: who has no cable between them goes round by a third.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skerry.core.geo import fitted

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]

REGIONS = fitted.REGIONS
UNKNOWN = len(REGIONS)  # the code of a place whose region nobody knows: distance alone counts


@dataclass(frozen=True)
class RttModel:
    """`near`, `far`: (ms, ms for each km). `offset_ms`, `slope_ms` (for each 1,000 km): by codes, symmetric; of `UNKNOWN` 0."""

    near: tuple[float, float]
    far: tuple[float, float]
    offset_ms: Floats
    slope_ms: Floats

    def ms(self, km: Floats, here: Codes, there: Codes) -> Floats:
        """Round trips; `here` and `there` are codes of regions that broadcast to the shape of `km`."""
        lines = np.minimum(self.near[0] + self.near[1] * km, self.far[0] + self.far[1] * km)
        correction = self.offset_ms[here, there] + self.slope_ms[here, there] * (km / 1000)
        return np.maximum(lines + correction * np.minimum(1.0, km / fitted.FULL_KM), fitted.LIGHT_MS_PER_KM * km)


def code_of(region: str) -> int:
    return REGIONS.index(region) if region in REGIONS else UNKNOWN


def _table(rows: tuple[tuple[float, ...], ...]) -> Floats:
    table = np.zeros((UNKNOWN + 1, UNKNOWN + 1))
    table[:UNKNOWN, :UNKNOWN] = rows
    return table


MODEL = RttModel(near=fitted.NEAR, far=fitted.FAR, offset_ms=_table(fitted.OFFSET_MS), slope_ms=_table(fitted.SLOPE_MS))
