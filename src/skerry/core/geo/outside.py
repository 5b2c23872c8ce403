"""Which of our sites a place outside the platform counts as being in."""

from collections.abc import Iterable, Mapping

from skerry.core.geo.cities import City
from skerry.core.geo.distance import great_circle_km
from skerry.core.types.ids import SiteId
from skerry.core.types.outside import CITIES
from skerry.core.types.place import Site


def homes_of(names: Iterable[str], sites: Iterable[Site], cities: Mapping[str, City]) -> dict[str, SiteId]:
    """Of those names that are places: the site nearest to each, whatever its state; the first by id of equals."""
    ordered = sorted(sites, key=lambda site: site.id)
    found: dict[str, SiteId] = {}
    for name in names:
        kind, _, place = name.partition(":")
        city = cities.get(CITIES.get(kind, {}).get(place, ""))
        if kind == "site":
            if any(site.id == place for site in ordered):
                found[name] = SiteId(place)
        elif city is not None and ordered:
            lat, lon = city.lat, city.lon
            found[name] = min(ordered, key=lambda site: great_circle_km(lat, lon, site.lat, site.lon)).id
    return found
