"""Any scale: judged without an exception; what is accepted survives the store and can be placed."""

from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.core.checks.plan import plan_violations
from skerry.core.geo.distance import site_rtt_ms
from skerry.core.placement.explain import explain
from skerry.core.placement.place import place
from skerry.core.placement.world import World
from skerry.core.policy.scale import instance_limits, scale_faults, scale_warnings
from skerry.core.types.app import DataCalls, InstanceResources, RegionMin, Scale
from skerry.core.types.ids import SiteId
from skerry.kit.record import decode, encode
from skerry.testing.builders import make_app, make_evaluation, make_version, make_view

NAMES = ("lhr", "cur", "sin", "fra", "nrt")
PLACES = (*NAMES, "country:GB", "country:DE", "country:RU", "region:weur", "region:apac", "region:afr")
WORLD = World(sites=tuple(make_view(name) for name in NAMES))
SITES = tuple(view.site for view in WORLD.sites)


def few(values: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(values, max_size=2).map(tuple)


def scales(numbers: st.SearchStrategy[int], amounts: st.SearchStrategy[float], wild: bool) -> st.SearchStrategy[Scale]:
    def named(good: tuple[str, ...], bad: tuple[str, ...]) -> st.SearchStrategy[str]:
        return st.sampled_from((*good, *bad) if wild else good)

    places = named(PLACES, ("abc", "London", ""))
    return st.builds(
        Scale,
        min_per_site=numbers,
        max_per_site=st.none() | numbers,
        min_total=numbers,
        max_total=st.none() | numbers,
        region_min=st.lists(st.builds(RegionMin, region=named(("weur", "apac"), ("afr", "mars")), count=numbers), max_size=1).map(
            tuple
        ),
        allow=few(places | st.text(max_size=8)) if wild else few(places),
        deny=few(places),
        jurisdiction=st.none() | named(("eu",), ("fedramp", "E U", "")),
        features=few(named(("gpu", "kvm"), ("G!",))),
        pin=few(named(NAMES, ("abc",))).map(lambda names: tuple(SiteId(name) for name in names)),
        latency_objective_ms=st.none() | amounts,
        survive_sites=numbers,
        priority=numbers,
        rps_per_instance=amounts,
        calls=st.lists(st.builds(DataCalls, data=named(("db", "bucket/x"), ("a b",)), per_request=amounts), max_size=1).map(
            tuple
        ),
        sticky=st.booleans(),
        resources=st.none()
        | st.builds(InstanceResources, cpu_millicores=st.none() | numbers, memory_mib=st.none() | st.integers(12, 600)),
    )


ANY = scales(st.integers(-2, 12) | st.integers(), st.floats(allow_nan=True, allow_infinity=True), wild=True)
LIKELY = scales(st.integers(0, 3), st.sampled_from((1.0, 20.0, 200.0)), wild=False)


@settings(max_examples=300, deadline=None)
@given(scale=ANY | LIKELY, before=st.none() | LIKELY)
def test_every_scale_is_judged_in_sentences(scale: Scale, before: Scale | None) -> None:
    for faults in (scale_faults(scale), scale_faults(scale, SITES), scale_faults(scale, SITES, before=before)):
        assert all(fault and len(fault) < 400 for fault in faults)
        assert len(set(faults)) == len(faults)
    assert set(scale_faults(scale, SITES)) >= set(scale_faults(scale)) or scale_faults(scale)


@settings(max_examples=300, deadline=None)
@given(scale=LIKELY)
def test_what_is_accepted_survives_the_store_and_can_be_placed(scale: Scale) -> None:
    if scale_faults(scale, SITES):
        return
    assert decode(encode(scale), Scale) == scale
    assert all(scale_warnings(scale, SITES, site_rtt_ms)) or scale_warnings(scale, SITES, site_rtt_ms) == ()
    asked = instance_limits(scale)
    assert asked.reserve.memory_mib <= asked.memory_mib_max and asked.reserve.cpu_millicores <= asked.cpu_millicores_max
    app, shares = make_app(scale=scale), ((make_version(1), 90.0), (make_version(2, memory_mib=40), 10.0))
    plan = place(WORLD, app, shares, evaluation=make_evaluation(), parent=None, now_ms=0)
    assert plan_violations(plan, WORLD, app, shares, None) == ()
    assert all(verdict.reasons for verdict in explain(app, plan, WORLD).verdicts)
