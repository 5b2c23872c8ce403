"""Internet users by the site that is nearest to them: who stands for an app's users as long as nobody has counted those."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from skerry.core.geo.cities import City
from skerry.core.geo.demand import Audience, MetroUsers
from skerry.core.geo.latency import nearest_ms
from skerry.core.geo.rtt import Points
from skerry.core.types.ids import SiteId
from skerry.core.types.place import Site


def users_by_site(sites: Sequence[Site], cities: Mapping[str, City], users: Iterable[MetroUsers]) -> dict[SiteId, float]:
    """Every metro's users belong to the site with the least round trip, whatever its state; a site without any has 0."""
    if not sites:
        return {}
    metros = sorted(cities.values(), key=lambda city: city.code)
    audience = Audience.of([(city.code, city.country) for city in metros], users)
    nearest, _ = nearest_ms(Points.of(metros), Points.of(sites))
    sums = np.bincount(nearest, audience.total, len(sites))
    return {site.id: float(sums[at]) for at, site in enumerate(sites)}
