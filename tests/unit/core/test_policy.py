"""Policy: what the words of a `Scale` allow, and what contradicts itself."""

import math

import pytest
from msgspec.structs import replace

from skerry.core.geo.distance import site_rtt_ms
from skerry.core.policy.jurisdiction import jurisdictions_of
from skerry.core.policy.places import place_rejection
from skerry.core.policy.scale import instance_limits, instances_min, scale_faults, scale_warnings
from skerry.core.policy.shapes import Room, shapes_of
from skerry.core.policy.state import node_state_rejection, site_state_rejection
from skerry.core.types.app import DataCalls, InstanceResources, RegionMin, Scale
from skerry.core.types.ids import SiteId
from skerry.core.types.plan import Reason, Rejection
from skerry.core.types.resources import Resources
from skerry.testing.builders import make_node, make_site


@pytest.mark.parametrize(
    ("allow", "deny", "reason"),
    [
        ((), (), None),
        (("lhr",), (), None),
        (("country:GB",), (), None),
        (("region:weur",), (), None),
        (("cur",), (), Reason.NOT_ALLOWED),
        (("country:gb",), (), Reason.NOT_ALLOWED),
        ((), ("lhr",), Reason.DENIED),
        ((), ("region:weur",), Reason.DENIED),
        (("lhr",), ("country:GB",), Reason.DENIED),
        ((), ("cur",), None),
    ],
)
def test_deny_wins_over_allow_and_an_empty_allow_list_allows_all(
    allow: tuple[str, ...], deny: tuple[str, ...], reason: Reason | None
) -> None:
    rejection = place_rejection(make_site("lhr"), Scale(allow=allow, deny=deny))
    assert (rejection.reason if rejection else None) == reason


@pytest.mark.parametrize(
    ("state", "runs_there", "reason"),
    [
        ("up", False, None),
        ("cut_off", True, None),
        ("cut_off", False, Reason.SITE_CUT_OFF),
        ("draining", True, Reason.SITE_DRAINING),
        ("down", True, Reason.SITE_DOWN),
    ],
)
def test_a_cut_off_site_keeps_what_it_has(state: str, runs_there: bool, reason: Reason | None) -> None:
    rejection = site_state_rejection(make_site("lhr", state=state), runs_there=runs_there)  # type: ignore[arg-type]
    assert (rejection.reason if rejection else None) == reason


def test_only_a_node_that_is_up_takes_instances() -> None:
    assert node_state_rejection(make_node("lhr-1")) is None
    assert node_state_rejection(make_node("lhr-1", state="draining")).reason is Reason.NODE_DRAINING  # type: ignore[union-attr]
    assert node_state_rejection(make_node("lhr-1", state="down")) == Rejection(place="lhr-1", reason=Reason.NODE_DOWN)
    cut_off = Rejection(place="lhr-1", reason=Reason.NODE_DOWN, detail="what it runs serves on")
    assert node_state_rejection(make_node("lhr-1", state="cut_off")) == cut_off


def test_room_knows_that_free_memory_on_two_nodes_is_not_one_piece() -> None:
    nodes = [make_node("lhr-1", memory_mib=100), make_node("lhr-2", memory_mib=100)]
    room = Room(shapes_of(nodes), (), Resources())
    need = Resources(memory_mib=60)
    assert [room.take(need) for _ in range(3)] == [True, True, False]
    assert room.free.memory_mib == 80
    assert "spread over nodes" in room.why_not(need)


WEUR_2 = (RegionMin(region="weur", count=2),)


@pytest.mark.parametrize(
    ("scale", "fault"),
    [
        (Scale(min_per_site=-1), "min_per_site is -1"),
        (Scale(min_per_site=1001), "min_per_site is 1001"),
        (Scale(max_total=-1), "max_total is -1"),
        (Scale(min_per_site=3, max_total=2), "max_total (2) is below min_per_site (3)"),
        (Scale(allow=("London",)), "'London' in allow is no site id"),
        (Scale(deny=("country:gb",)), "'country:gb' in deny"),
        (Scale(deny=("region:mars",)), "'region:mars' in deny"),
        (Scale(allow=("lhr", "lhr")), "allow names 'lhr' twice"),
        (Scale(allow=("lhr",), deny=("lhr",)), "'lhr' is both allowed and denied"),
        (Scale(pin=(SiteId("lhr"),), deny=("lhr",)), "pin names 'lhr', which is denied"),
        (Scale(pin=(SiteId("cur"),), allow=("lhr",)), "pin names 'cur', which is not allowed"),
        (Scale(pin=(SiteId("cur"), SiteId("lhr")), max_total=1), "2 pinned sites need more than max_total (1)"),
        (Scale(pin=(SiteId("country:GB"),)), "'country:GB' in pin is no site id"),
        (Scale(features=("GPU!",)), "'GPU!' in features"),
        (Scale(allow=tuple(f"s{n}" for n in range(1001))), "allow has 1001 entries"),
        (Scale(allow=("x" * 5000,)), "…"),
        (Scale(max_per_site=0), "max_per_site is 0; it must be 1 to 1000"),
        (Scale(min_total=-1), "min_total is -1"),
        (Scale(min_total=100_001), "min_total is 100001"),
        (Scale(survive_sites=51), "survive_sites is 51"),
        (Scale(priority=101), "priority is 101; it must be 0 to 100"),
        (Scale(latency_objective_ms=0.0), "latency_objective_ms is 0.0; it must be a number above 0"),
        (Scale(latency_objective_ms=math.nan), "latency_objective_ms is nan"),
        (Scale(rps_per_instance=math.inf), "rps_per_instance is inf"),
        (Scale(rps_per_instance=-1.0), "rps_per_instance is -1.0"),
        (Scale(region_min=(RegionMin(region="mars", count=1),)), "'mars' in region_min is no region; the regions are weur,"),
        (Scale(region_min=(RegionMin(region="weur", count=0),)), "region_min of weur is 0"),
        (Scale(region_min=(RegionMin(region="weur", count=1),) * 2), "region_min names 'weur' twice"),
        (Scale(calls=(DataCalls(data="a b", per_request=1),)), "'a b' in calls is no name"),
        (Scale(calls=(DataCalls(data="db", per_request=math.nan),)), "calls of 'db' is nan"),
        (Scale(calls=(DataCalls(data="db", per_request=1001),)), "calls of 'db' is 1001"),
        (Scale(jurisdiction="EU!"), "'EU!' is no name of a jurisdiction"),
        (Scale(resources=InstanceResources(memory_mib=4)), "resources.memory_mib is 4; it must be 12 to 512"),
        (Scale(resources=InstanceResources(memory_mib=4096)), "resources.memory_mib is 4096"),
        (Scale(resources=InstanceResources(cpu_millicores=0)), "resources.cpu_millicores is 0; it must be 10 to 1000"),
        (Scale(min_per_site=3, max_per_site=2), "max_per_site (2) is below min_per_site (3)"),
        (Scale(min_total=5, max_total=4), "max_total (4) is below min_total (5)"),
        (Scale(region_min=WEUR_2, max_total=1), "region_min asks for 2 instances together, more than max_total (1)"),
        (Scale(region_min=WEUR_2, deny=("region:weur",)), "region_min asks for 2 in weur, which deny excludes (region:weur)"),
        (Scale(region_min=WEUR_2, allow=("region:apac",)), "region_min asks for 2 in weur, which allow does not name"),
        (Scale(survive_sites=2, max_total=2), "survive_sites (2) needs instances in 3 sites, more than max_total (2)"),
        (Scale(survive_sites=1, allow=("lhr",)), "survive_sites (1) needs 2 sites, but allow, deny and jurisdiction leave 1"),
        (Scale(jurisdiction="eu", allow=("country:GB", "country:US")), "jurisdiction eu excludes every country of allow"),
    ],
)
def test_what_contradicts_itself_is_named(scale: Scale, fault: str) -> None:
    found = scale_faults(scale)
    assert any(fault in said for said in found), found
    assert all(len(said) < 200 for said in found)


def test_a_plain_scale_has_no_faults() -> None:
    scale = Scale(min_per_site=2, max_total=10, allow=("region:weur", "cur"), deny=("country:DE",), pin=(SiteId("cur"),))
    assert scale_faults(scale) == ()
    assert scale_faults(scale, (make_site("lhr"), make_site("cur"), make_site("fra"))) == ()


@pytest.mark.parametrize(
    ("scale", "fault"),
    [
        (Scale(allow=("nrt", "lhr")), "'nrt' in allow names no site"),
        (Scale(deny=("lhr", "cur")), "allow and deny together leave no site"),
        (Scale(pin=(SiteId("nrt"),)), "pin names 'nrt', which is no site"),
        (Scale(pin=(SiteId("lhr"),), deny=("country:GB",)), "pin names 'lhr', which is excluded"),
        (Scale(pin=(SiteId("cur"),), jurisdiction="eu"), "no site is in jurisdiction eu; the sites are in: none"),
        (Scale(survive_sites=2), "survive_sites (2) needs 3 sites, but allow, deny and jurisdiction leave 2"),
        (Scale(region_min=(RegionMin(region="apac", count=1),)), "region_min asks for 1 in apac, where allow, deny"),
        (Scale(region_min=WEUR_2, deny=("country:GB",)), "region_min asks for 2 in weur, where allow, deny"),
        (Scale(region_min=WEUR_2, max_per_site=1), "but max_per_site (1) allows 1 in its 1 site(s)"),
        (Scale(min_total=5, max_per_site=2), "min_total (5) is more than max_per_site (2) allows in 2 site(s): 4"),
    ],
)
def test_against_the_sites_there_are_unknown_names_are_found(scale: Scale, fault: str) -> None:
    assert any(fault in found for found in scale_faults(scale, (make_site("lhr"), make_site("cur"))))


THREE = (make_site("lhr"), make_site("fra"), make_site("sin"))


def test_a_site_is_in_the_eu_by_its_country_and_elsewhere_by_its_operators_word() -> None:
    assert jurisdictions_of(make_site("fra")) == ("eu",)
    assert jurisdictions_of(make_site("lhr")) == ()
    assert jurisdictions_of(replace(make_site("cur"), jurisdictions=("nl", "eu"))) == ("eu", "nl")


@pytest.mark.parametrize(
    ("name", "tags", "jurisdiction", "rejected"),
    [
        ("fra", (), "eu", False), ("lhr", (), "eu", True), ("lhr", ("eu",), "eu", False), ("lhr", (), None, False),
        ("fra", (), "fedramp", True), ("sin", ("fedramp",), "fedramp", False),
    ],
)  # fmt: skip
def test_a_jurisdiction_excludes_what_is_not_in_it(name: str, tags: tuple[str, ...], jurisdiction: str, rejected: bool) -> None:
    rejection = place_rejection(replace(make_site(name), jurisdictions=tags), Scale(jurisdiction=jurisdiction))
    assert (rejection.reason if rejection else None) == (Reason.JURISDICTION if rejected else None)
    if rejection is not None:
        assert f"needs {jurisdiction}" in rejection.detail


def test_a_jurisdiction_and_an_allow_list_without_a_common_site_are_refused() -> None:
    (fault,) = scale_faults(Scale(jurisdiction="eu", allow=("lhr", "sin")), THREE)
    assert fault == "jurisdiction eu (fra) and the sites that allow and deny leave have none in common"
    assert scale_faults(Scale(jurisdiction="eu", allow=("region:weur",)), THREE) == ()


def test_a_name_that_was_valid_once_does_not_block_other_changes_when_its_site_is_gone() -> None:
    held = Scale(allow=("nrt", "lhr"))
    assert scale_faults(replace(held, priority=80), THREE, before=held) == ()
    assert "'nrt' in allow names no site now" in scale_warnings(held, THREE, site_rtt_ms)
    assert "'nrt' in deny names no site" in scale_faults(replace(held, deny=("nrt",), allow=()), THREE, before=Scale())


def test_a_country_or_region_without_a_site_is_told_not_refused() -> None:
    scale = Scale(deny=("country:RU", "region:afr"))
    assert scale_faults(scale, THREE) == ()
    assert scale_warnings(scale, THREE, site_rtt_ms) == (
        "'country:RU' in deny names no site now",
        "'region:afr' in deny names no site now",
    )


def test_an_objective_that_no_allowed_site_can_meet_is_told_not_refused() -> None:
    scale = Scale(allow=("lhr",), latency_objective_ms=50.0)
    assert scale_faults(scale, THREE) == ()
    (warning,) = scale_warnings(scale, THREE, site_rtt_ms)
    assert "cannot be met for users next to sin: from sin the nearest allowed site is 271 ms away" in warning
    assert scale_warnings(Scale(latency_objective_ms=5.0), THREE, site_rtt_ms) == ()


@pytest.mark.parametrize(
    ("scale", "least"),
    [
        (Scale(), 1), (Scale(min_per_site=0), 1), (Scale(min_total=7), 7), (Scale(survive_sites=2), 3), (Scale(max_total=0), 0),
        (Scale(region_min=(*WEUR_2, RegionMin(region="sam", count=3))), 5), (Scale(min_total=1, survive_sites=3), 4),
    ],
)  # fmt: skip
def test_an_app_that_is_on_runs_somewhere_and_in_one_site_more_than_may_be_lost(scale: Scale, least: int) -> None:
    assert instances_min(scale) == least


def test_an_instance_reserves_what_its_deployer_asks_for_and_else_the_platforms_own() -> None:
    plain = instance_limits(Scale())
    asked = instance_limits(Scale(resources=InstanceResources(memory_mib=96)))
    assert asked.reserve == replace(plain.reserve, memory_mib=96)
    assert (asked.memory_mib_max, asked.cpu_millicores_max) == (plain.memory_mib_max, plain.cpu_millicores_max)
