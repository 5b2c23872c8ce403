"""How far apart places are: kilometres on the great circle, and a modelled round trip in milliseconds.

The model is for pairs without a measurement. Its two numbers are fitted on the WonderNetwork pings of
2020-07-19 (60,000 directed pairs between 246 servers; median over pairs): light in fibre needs 1 ms of round
trip per 100 km, real paths are longer than the great circle, and both ends add a fixed part.
"""

from math import asin, cos, radians, sin, sqrt

from skerry.core.types.place import Site

EARTH_RADIUS_KM = 6371.0088  # mean radius, IUGG 1980
RTT_BASE_MS = 4.0  # both ends' access and routers
RTT_MS_PER_KM = 0.0155  # 0.01 (light in fibre, both ways) x 1.55 (paths are not great circles)


def great_circle_km(lat_a: float, lon_a: float, lat_b: float, lon_b: float) -> float:
    """Haversine distance between two points given in degrees."""
    phi_a, phi_b = radians(lat_a), radians(lat_b)
    half_lat, half_lon = (phi_b - phi_a) / 2, radians(lon_b - lon_a) / 2
    chord = sin(half_lat) ** 2 + cos(phi_a) * cos(phi_b) * sin(half_lon) ** 2
    return 2 * EARTH_RADIUS_KM * asin(min(1.0, sqrt(chord)))


def modelled_rtt_ms(km: float) -> float:
    """Round trip over `km` of great circle; 0 km is the same building and costs nothing."""
    return RTT_BASE_MS + RTT_MS_PER_KM * km if km > 0 else 0.0


def site_rtt_ms(a: Site, b: Site) -> float:
    """Modelled round trip between two sites."""
    return modelled_rtt_ms(great_circle_km(a.lat, a.lon, b.lat, b.lon))
