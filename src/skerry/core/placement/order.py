"""In which order other sites are asked when a site cannot serve an app itself."""

from skerry.core.geo.distance import site_rtt_ms
from skerry.core.types.ids import SiteId
from skerry.core.types.place import Site
from skerry.kit.hashing import stable_hash


def fallback_order(site: Site, candidates: tuple[Site, ...]) -> tuple[SiteId, ...]:
    """The candidates other than `site`, nearest (modelled round trip) first.

    Sites that are cut off from control come last, as nobody knows how they are; sites that are down are left out.
    """
    others = [other for other in candidates if other.id != site.id and other.state != "down"]

    def rank(other: Site) -> tuple[bool, float, int, str]:
        return (other.state == "cut_off", site_rtt_ms(site, other), stable_hash(site.id, other.id), other.id)

    return tuple(other.id for other in sorted(others, key=rank))
