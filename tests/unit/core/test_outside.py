"""Places outside the platform that an app calls: which of our sites they count as, and what a decision makes of it."""

from importlib.resources import files

import pytest
from msgspec.structs import replace

from skerry.core.geo.cities import City, parse_cities_csv
from skerry.core.geo.outside import homes_of
from skerry.core.placement.place import place
from skerry.core.placement.world import World
from skerry.core.policy.scale import scale_faults
from skerry.core.types.app import DataCalls, Scale
from skerry.core.types.ids import SiteId
from skerry.core.types.outside import CITIES, is_outside, outside_fault
from skerry.testing.builders import make_app, make_evaluation, make_site, make_version, make_view

V1 = make_version(1)
SITES = tuple(make_site(name) for name in ("lhr", "cur", "sin"))


@pytest.fixture(scope="module")
def cities() -> dict[str, City]:
    return parse_cities_csv(files("skerry.data").joinpath("edge-cities.csv").read_text("utf-8").splitlines())


def test_every_listed_place_is_in_a_city_that_is_known(cities: dict[str, City]) -> None:
    names = [f"{kind}:{name}" for kind, places in CITIES.items() for name in places]
    assert len(names) > 100
    assert homes_of(names, SITES, cities).keys() == set(names)
    assert all(is_outside(name) and outside_fault(name) is None for name in names)


def test_what_is_called_counts_as_in_the_nearest_site(cities: dict[str, City]) -> None:
    names = ["aws:us-east-1", "gcp:europe-west4", "region:apac", "site:cur", "site:xyz", "orders"]
    assert homes_of(names, SITES, cities) == {
        "aws:us-east-1": "cur",
        "gcp:europe-west4": "lhr",
        "region:apac": "sin",
        "site:cur": "cur",
    }
    assert homes_of(names, (), cities) == {}


def test_a_misspelt_place_is_refused_with_the_one_that_was_meant() -> None:
    scale = Scale(calls=(DataCalls(data="aws:eu-wset-2", per_request=1.0),))
    assert scale_faults(scale, SITES) == ("calls: 'aws:eu-wset-2' is no place that is known; perhaps 'aws:eu-west-2' is meant",)
    assert scale_faults(Scale(calls=(DataCalls(data="orders:eu", per_request=1.0),)), SITES) == ()


def test_an_app_runs_beside_what_its_requests_call_unless_its_users_weigh_more() -> None:
    world = World(
        sites=tuple(make_view(site.id) for site in SITES),
        demand={SiteId("lhr"): 100.0},
        homes={"aws:us-east-1": SiteId("cur")},
    )
    app = make_app(scale=Scale(min_per_site=0, max_total=1, calls=(DataCalls(data="aws:us-east-1", per_request=3.0),)))

    def chosen(world: World) -> list[str]:
        plan = place(world, app, ((V1, 100.0),), evaluation=make_evaluation(), parent=None, now_ms=1000)
        said.append(" ".join(plan.report))
        return [entry.site for entry in plan.placements]

    said: list[str] = []
    assert chosen(world) == ["cur"]
    assert "Called for each request: 3 to aws:us-east-1 (as in cur)." in said[0]
    assert chosen(replace(world, homes={})) == ["lhr"]
    assert "3 to aws:us-east-1 (nobody knows where that is)" in said[1]
