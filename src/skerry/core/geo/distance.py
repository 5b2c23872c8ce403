"""How far apart two places are: kilometres on the great circle, and a modelled round trip in milliseconds."""

from math import asin, cos, radians, sin, sqrt

from skerry.core.geo import fitted
from skerry.core.geo.countries import region_at
from skerry.core.types.place import Site

EARTH_RADIUS_KM = 6371.0088  # mean radius, IUGG 1980


def great_circle_km(lat_a: float, lon_a: float, lat_b: float, lon_b: float) -> float:
    """Haversine distance between two points given in degrees."""
    phi_a, phi_b = radians(lat_a), radians(lat_b)
    half_lat, half_lon = (phi_b - phi_a) / 2, radians(lon_b - lon_a) / 2
    chord = sin(half_lat) ** 2 + cos(phi_a) * cos(phi_b) * sin(half_lon) ** 2
    return 2 * EARTH_RADIUS_KM * asin(min(1.0, sqrt(chord)))


def site_rtt_ms(a: Site, b: Site) -> float:
    """Modelled round trip between two sites (`core.geo.model`); the same building costs nothing."""
    km = great_circle_km(a.lat, a.lon, b.lat, b.lon)
    return _model_ms(km, region_at(a.country, a.lon), region_at(b.country, b.lon)) if km > 0 else 0.0


def _model_ms(km: float, here: str, there: str) -> float:
    """`core.geo.model` for one pair, without NumPy: who only orders a few cities need not load it."""
    lines = min(fitted.NEAR[0] + fitted.NEAR[1] * km, fitted.FAR[0] + fitted.FAR[1] * km)
    correction = 0.0
    if here in fitted.REGIONS and there in fitted.REGIONS:
        row, column = fitted.REGIONS.index(here), fitted.REGIONS.index(there)
        correction = fitted.OFFSET_MS[row][column] + fitted.SLOPE_MS[row][column] * (km / 1000)
    return max(lines + correction * min(1.0, km / fitted.FULL_KM), fitted.LIGHT_MS_PER_KM * km)
