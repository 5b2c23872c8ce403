"""How far users are from what serves them."""

import numpy as np
import pytest

from skerry.core.geo.cities import City
from skerry.core.geo.latency import nearest_ms, spread
from skerry.core.geo.rtt import Points


def city(code: str, lat: float, lon: float) -> City:
    return City(code=code, name=code, country="XX", region="weur", lat=lat, lon=lon)


LONDON, PARIS, TOKYO = city("lhr", 51.5, -0.5), city("cdg", 49.0, 2.5), city("nrt", 35.8, 140.4)


def test_everybody_is_served_from_the_place_that_is_nearest() -> None:
    nearest, rtts_ms = nearest_ms(Points.of([LONDON, PARIS, TOKYO]), Points.of([TOKYO, LONDON]))
    assert list(nearest) == [1, 1, 0]
    assert rtts_ms[0] < rtts_ms[1] < 30
    assert rtts_ms[2] == rtts_ms[0], "users beside a site are as near as anywhere"


def test_the_first_of_equally_near_places_serves() -> None:
    nearest, _ = nearest_ms(Points.of([PARIS]), Points.of([LONDON, LONDON]))
    assert list(nearest) == [0]


def test_a_spread_counts_users_not_cities() -> None:
    found = spread(np.array([100.0, 10.0, 20.0]), np.array([1.0, 98.0, 1.0]))
    assert found is not None
    assert found.mean_ms == pytest.approx((100 + 980 + 20) / 100)
    assert (found.p50_ms, found.p95_ms) == (10.0, 10.0)
    far = spread(np.array([100.0, 10.0]), np.array([6.0, 94.0]))
    assert far is not None
    assert far.p95_ms == 100.0


def test_nobody_has_no_latency() -> None:
    assert spread(np.array([1.0]), np.array([0.0])) is None
    assert spread(np.array([]), np.array([])) is None
