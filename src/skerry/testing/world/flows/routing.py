"""Where requests go: own city, else the fallback order of core, as far as instances have capacity. Flows, not single requests."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skerry.core.placement.order import fallback_order
from skerry.core.types.ids import SiteId
from skerry.core.types.place import PlaceState, Site
from skerry.core.types.problem import Floats, ProblemSite

Ints = NDArray[np.int64]
TINY_RPS = 1e-9


@dataclass(frozen=True)
class Served:
    """One app's flows. Rows: (metro, the city it arrives in, the city that serves, rps)."""

    metro: Ints
    entry: Ints
    site: Ints
    rps: Floats
    unserved: Floats  # by row of the demand that was asked about


def positions(sites: tuple[ProblemSite, ...]) -> Ints:
    """S × S: at which place of its order a city asks another; 0 is itself."""
    places = tuple(site_of(site) for site in sites)
    index = {site.id: at for at, site in enumerate(places)}
    found = np.zeros((len(places), len(places)), dtype=np.int64)
    for at, site in enumerate(places):
        for rank, other in enumerate(fallback_order(site, places), start=1):
            found[at, index[other]] = rank
    return found


def serve(metro: Ints, rps: Floats, entry: Ints, capacity: Floats, position: Ints, *, spill: bool) -> Served:
    """One app: `rps` of each row arrives at `entry` (−1: nowhere); `capacity` per site in rps.

    In rounds: all that waits goes to the next city of its order that runs the app; where that is too much, each row gets its
    proportion. Without `spill` only the first city is asked.
    """
    running = np.flatnonzero(capacity > TINY_RPS)
    left = np.where(entry >= 0, rps, 0.0)
    lost = np.where(entry >= 0, 0.0, rps)
    if not len(running) or not len(rps):
        return _joined(metro, entry, [], lost + left)
    order = running[np.argsort(position[np.maximum(entry, 0)][:, running], axis=1, kind="stable")]
    free = capacity.copy()
    parts: list[tuple[Ints, Ints, Floats]] = []
    for turn in range(order.shape[1]):
        rows = np.flatnonzero(left > TINY_RPS)
        if not len(rows):
            break
        target = order[rows, turn]
        wish = left[rows]
        load = np.bincount(target, wish, len(free))
        part = np.minimum(1.0, np.divide(free, load, out=np.ones_like(free), where=load > 0))
        amount = wish * part[target]
        parts.append((rows, target, amount))
        left[rows] -= amount
        free = np.maximum(0.0, free - np.bincount(target, amount, len(free)))
        if not spill:
            break
    return _joined(metro, entry, parts, lost + np.where(left > TINY_RPS, left, 0.0))


def _joined(metro: Ints, entry: Ints, parts: list[tuple[Ints, Ints, Floats]], unserved: Floats) -> Served:
    rows = np.concatenate([np.empty(0, dtype=np.int64), *(rows for rows, _, _ in parts)])
    site = np.concatenate([np.empty(0, dtype=np.int64), *(target for _, target, _ in parts)])
    rps = np.concatenate([np.empty(0), *(amount for _, _, amount in parts)])
    kept = rps > TINY_RPS
    rows, site, rps = rows[kept], site[kept], rps[kept]
    return Served(metro=metro[rows], entry=entry[rows], site=site, rps=rps, unserved=unserved)


def site_of(site: ProblemSite, state: PlaceState = "up") -> Site:
    """As the platform's own code knows it; nobody asks for its addresses."""
    return Site(
        id=SiteId(site.id),
        city=site.name,
        country=site.country,
        region=site.region,
        lat=site.lat,
        lon=site.lon,
        address="",
        peer_address="",
        state=state,
        jurisdictions=site.jurisdictions,
    )
