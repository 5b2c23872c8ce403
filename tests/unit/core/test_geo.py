"""Distances, and the model of round trips that nobody measured."""

import itertools
from importlib.resources import files

import numpy as np
import pytest

from skerry.core.geo.cities import parse_cities_csv
from skerry.core.geo.countries import region_at
from skerry.core.geo.distance import great_circle_km, site_rtt_ms
from skerry.core.geo.rtt import Points, distances_km, modelled_rtts_ms, user_rtts_ms
from skerry.testing.builders import make_site

COUNTRIES = ("ZA", "IN", "DE", "PL", "US", "AE", "AU", "BR", "XX")  # of each region, and of none


@pytest.mark.parametrize(
    ("a", "b", "km"), [("lhr", "lhr", 0), ("lhr", "fra", 653), ("lhr", "sin", 10_880), ("sin", "nrt", 5_350)]
)
def test_great_circles_are_those_of_flight_tables(a: str, b: str, km: float) -> None:
    one, other = make_site(a), make_site(b)
    assert great_circle_km(one.lat, one.lon, other.lat, other.lon) == pytest.approx(km, rel=0.01)
    assert site_rtt_ms(one, other) == site_rtt_ms(other, one)


def on_a_meridian(country: str, *lats: float) -> Points:
    return Points(lat=np.array(lats), lon=np.full(len(lats), 10.0), country=(country,) * len(lats))


@pytest.mark.parametrize(("here", "there"), list(itertools.product(COUNTRIES, COUNTRIES)))
def test_a_longer_way_takes_longer_and_nothing_is_faster_than_light(here: str, there: str) -> None:
    far = on_a_meridian(there, *np.linspace(-88, 89, 400)[::-1])
    start = on_a_meridian(here, 89.5)
    km, ms = distances_km(start, far)[0], modelled_rtts_ms(start, far)[0]
    assert (np.diff(ms) > 0).all()
    assert (ms >= km / 100).all()


def test_regions_decide_what_distance_does_not_tell() -> None:
    """Johannesburg and Mumbai have no cable as straight as London and New York."""
    places = Points(
        lat=np.array([51.5, 40.7, -26.1, 19.1]), lon=np.array([0.0, -74.0, 28.2, 72.9]), country=("GB", "US", "ZA", "IN")
    )
    km, ms = distances_km(places, places), modelled_rtts_ms(places, places)
    assert ms[2, 3] / km[2, 3] > 1.5 * ms[0, 1] / km[0, 1]


def test_the_same_point_costs_a_machine_nothing_and_its_users_the_way_to_the_exchange() -> None:
    place = on_a_meridian("GB", 51.5)
    assert modelled_rtts_ms(place, place)[0, 0] == 0
    assert user_rtts_ms(place, place)[0, 0] > 0


def test_one_pair_of_sites_is_as_the_table_has_it() -> None:
    sites = [make_site(name) for name in ("lhr", "fra", "cur", "sin", "nrt")]
    points = Points.of(sites)
    table = modelled_rtts_ms(points, points)
    for (row, one), (column, other) in itertools.product(enumerate(sites), enumerate(sites)):
        assert site_rtt_ms(one, other) == pytest.approx(table[row, column])


def test_the_regions_of_countries_are_those_of_the_cities() -> None:
    lines = files("skerry.data").joinpath("edge-cities.csv").read_text("utf-8").splitlines()
    cities = parse_cities_csv(lines).values()
    assert [
        city for city in cities if city.country not in ("RU", "KZ") and region_at(city.country, city.lon) != city.region
    ] == []
    assert region_at("XX", 0.0) == ""
