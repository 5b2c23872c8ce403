"""Which sites look at which, so that control need not go by its own ears alone when one falls silent.

All sites stand on a ring, in an order that has nothing to do with where they are; each looks at the next few. So every site is
looked at by as many others, most of them far away: where a whole region is lost, they say so. A site that comes or goes changes
little.
"""

from collections.abc import Iterable

from skerry.core.types.ids import SiteId
from skerry.kit.hashing import stable_hash

OBSERVERS = 4  # of each site: two have to be left to say that it is gone


def looked_at(site: SiteId, sites: Iterable[SiteId]) -> tuple[SiteId, ...]:
    """Those that `site` looks at. `sites`: all there are, with or without itself."""
    ring = sorted({*sites, site}, key=lambda name: (stable_hash("observers", name), name))
    at = ring.index(site)
    return tuple(ring[(at + step) % len(ring)] for step in range(1, min(OBSERVERS, len(ring) - 1) + 1))
