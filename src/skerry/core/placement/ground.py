"""Round trips between all sites at once: measured where somebody measured, else modelled and marked so."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from skerry.core.geo.rtt import Points, modelled_rtts_ms
from skerry.core.types.ids import SiteId
from skerry.core.types.place import Site
from skerry.core.types.problem import Bools, Floats

Rtts = Mapping[SiteId, Mapping[SiteId, float]]
Position = tuple[SiteId, float, float, str]


@dataclass(frozen=True)
class Ground:
    """`rtt_ms[a, b]` in the order of the sites that it was asked for; the diagonal is 0."""

    rtt_ms: Floats
    measured: Bools


def ground_of(sites: Sequence[Site], rtts_ms: Rtts) -> Ground:
    """A measurement of either direction holds for both; the shorter of two."""
    ground = _modelled(tuple((site.id, site.lat, site.lon, site.country) for site in sites))
    return _with_measured(ground, {site.id: at for at, site in enumerate(sites)}, rtts_ms) if rtts_ms else ground


@dataclass(frozen=True)
class _Point:
    lat: float
    lon: float
    country: str


@lru_cache(maxsize=8)
def _modelled(positions: tuple[Position, ...]) -> Ground:
    points = Points.of([_Point(lat, lon, country) for _, lat, lon, country in positions])
    rtt_ms = modelled_rtts_ms(points, points)
    np.fill_diagonal(rtt_ms, 0.0)
    rtt_ms.setflags(write=False)
    return Ground(rtt_ms, np.zeros(rtt_ms.shape, dtype=np.bool_))


def _with_measured(ground: Ground, index: Mapping[SiteId, int], rtts_ms: Rtts) -> Ground:
    rtt_ms, measured = ground.rtt_ms.copy(), ground.measured.copy()
    for here, row in sorted(rtts_ms.items()):
        for there, value in sorted(row.items()):
            if here == there or here not in index or there not in index:
                continue
            a, b = index[here], index[there]
            best = min(value, float(rtt_ms[a, b])) if measured[a, b] else value
            rtt_ms[a, b] = rtt_ms[b, a] = best
            measured[a, b] = measured[b, a] = True
    return Ground(rtt_ms, measured)
