"""One app on the map: copies, and its users' round trips by metro and region."""

from skerry.adapters.worlds import load_catalogue
from skerry.core.types.ids import AccountId, AppName, SiteId
from skerry.core.types.place import Site
from skerry.core.types.view_map import AppMap, CopiesView
from skerry.services.app_map import make_app_map

EVENING_IN_LONDON_MS = 21 * 3_600_000


def site(code: str) -> Site:
    city = load_catalogue().cities[code]
    return Site(
        id=SiteId(code),
        city=city.name,
        country=city.country,
        region=city.region,
        lat=city.lat,
        lon=city.lon,
        address="",
        peer_address="",
    )


def mapped(*copies: CopiesView, now_ms: int = EVENING_IN_LONDON_MS) -> AppMap:
    return make_app_map(
        account=AccountId("0" * 32),
        account_name="default",
        app=AppName("hello"),
        url="http://hello.default.localhost",
        copies=copies,
        sites={held.site: site(held.site) for held in copies},
        catalogue=load_catalogue(),
        now_ms=now_ms,
    )


def copies(code: str, serving: int = 1) -> CopiesView:
    return CopiesView(site=SiteId(code), instances=1, serving=serving)


def test_each_metro_names_the_nearest_site_that_serves() -> None:
    said = mapped(copies("lhr"), copies("sin"), copies("nrt", serving=0))
    of = {metro.metro: metro for metro in said.metros}
    assert len(of) == len(load_catalogue().cities)
    assert (of["cdg"].site, of["kul"].site) == ("lhr", "sin")
    assert of["nrt"].site == "sin", "an instance that does not serve yet serves nobody"
    assert of["lhr"].rtt_ms < of["cdg"].rtt_ms < of["jnb"].rtt_ms
    assert said.source == "modelled"


def test_a_region_is_the_sum_of_its_metros_and_the_world_of_its_regions() -> None:
    said = mapped(copies("lhr"), copies("sin"))
    assert said.world.users == sum(region.users for region in said.regions)
    europe = next(region for region in said.regions if region.region == "weur")
    assert europe.p50_ms <= europe.p95_ms < said.world.p95_ms
    assert europe.users == sum(metro.users for metro in said.metros if metro.region == "weur")


def test_an_app_that_nobody_serves_has_users_without_latency() -> None:
    said = mapped(copies("lhr", serving=0))
    assert {(metro.site, metro.rtt_ms) for metro in said.metros} == {(None, None)}
    assert said.world.users > 10**9
    assert (said.world.mean_ms, said.world.p50_ms, said.world.p95_ms) == (None, None, None)


def test_the_time_of_day_moves_the_mean_towards_who_is_awake() -> None:
    evening, morning = mapped(copies("lhr")), mapped(copies("lhr"), now_ms=4 * 3_600_000)
    assert evening.world.mean_ms < morning.world.mean_ms, "at 04:00 UTC Asia is awake, far from London"
