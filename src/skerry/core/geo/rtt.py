"""Tables of modelled round trips between many points, as NumPy columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from skerry.core.geo.countries import region_at
from skerry.core.geo.distance import EARTH_RADIUS_KM
from skerry.core.geo.model import MODEL, Codes, code_of

Floats = NDArray[np.float64]


class Located(Protocol):
    """What has a position: a site, a city, a metro."""

    @property
    def lat(self) -> float: ...
    @property
    def lon(self) -> float: ...
    @property
    def country(self) -> str: ...


@dataclass(frozen=True)
class Points:
    """Positions in degrees and ISO 3166 countries, one entry each."""

    lat: Floats
    lon: Floats
    country: tuple[str, ...]

    @staticmethod
    def of(places: Sequence[Located]) -> "Points":
        return Points(
            lat=np.array([place.lat for place in places], dtype=np.float64),
            lon=np.array([place.lon for place in places], dtype=np.float64),
            country=tuple(place.country for place in places),
        )

    @cached_property
    def regions(self) -> Codes:
        """As the model of round trips counts them."""
        places = zip(self.country, self.lon.tolist(), strict=True)
        return np.array([code_of(region_at(country, lon)) for country, lon in places], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.country)


def distances_km(here: Points, there: Points) -> Floats:
    """Great circles, `len(here)` × `len(there)` (haversine, as `great_circle_km`)."""
    phi_a, phi_b = np.radians(here.lat)[:, None], np.radians(there.lat)[None, :]
    half_lat = (phi_b - phi_a) / 2
    half_lon = np.radians(there.lon[None, :] - here.lon[:, None]) / 2
    chord = np.sin(half_lat) ** 2 + np.cos(phi_a) * np.cos(phi_b) * np.sin(half_lon) ** 2
    return 2 * EARTH_RADIUS_KM * np.arcsin(np.minimum(1.0, np.sqrt(chord)))


def modelled_rtts_ms(here: Points, there: Points) -> Floats:
    """Modelled round trips between machines, `len(here)` × `len(there)`; 0 where both are the same point."""
    km = distances_km(here, there)
    return np.where(km > 0, _ms(km, here, there), 0.0)


def user_rtts_ms(here: Points, there: Points) -> Floats:
    """As `modelled_rtts_ms`, from users: the way to the next exchange is never free."""
    return _ms(distances_km(here, there), here, there)


def _ms(km: Floats, here: Points, there: Points) -> Floats:
    return MODEL.ms(km, here.regions[:, None], there.regions[None, :])
