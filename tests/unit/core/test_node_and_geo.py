"""A node's actions; distances."""

import pytest

from skerry.core.geo.distance import great_circle_km, modelled_rtt_ms, site_rtt_ms
from skerry.core.reconcile.node import reconcile_node
from skerry.core.types.ids import InstanceId, NodeId
from skerry.core.types.slices import NodeInstance, NodeSlice
from skerry.testing.builders import make_observed, make_site, make_version

V1 = make_version(1)


def wanted(*names: str) -> NodeSlice:
    return NodeSlice(
        node=NodeId("lhr-1"), generation=1, instances=tuple(NodeInstance(id=InstanceId(name), version=V1) for name in names)
    )


@pytest.mark.parametrize("state", ["starting", "running", "asleep", "dead", "backoff", "failed", "stopping"])
def test_what_is_wanted_and_there_is_left_alone_in_every_state(state: str) -> None:
    actions = reconcile_node(wanted("a"), (make_observed("a", V1, state),))  # type: ignore[arg-type]
    assert (actions.start, actions.stop) == ((), ())


def test_what_is_missing_is_started_and_what_is_extra_is_stopped_once() -> None:
    seen = (make_observed("z", V1), make_observed("y", V1, "failed"), make_observed("x", V1, "stopping"))
    actions = reconcile_node(wanted("b", "a"), seen)
    assert [instance.id for instance in actions.start] == ["a", "b"]
    assert actions.stop == ("y", "z")


@pytest.mark.parametrize(
    ("a", "b", "km"), [("lhr", "lhr", 0), ("lhr", "fra", 653), ("lhr", "sin", 10_880), ("sin", "nrt", 5_350)]
)
def test_great_circles_are_those_of_flight_tables(a: str, b: str, km: float) -> None:
    one, other = make_site(a), make_site(b)
    assert great_circle_km(one.lat, one.lon, other.lat, other.lon) == pytest.approx(km, rel=0.01)
    assert site_rtt_ms(one, other) == site_rtt_ms(other, one)


def test_the_round_trip_grows_with_the_distance_and_is_slower_than_light() -> None:
    assert modelled_rtt_ms(0) == 0
    assert modelled_rtt_ms(100) < modelled_rtt_ms(200) < modelled_rtt_ms(20_000)
    assert all(modelled_rtt_ms(km) > km / 100 for km in (1, 100, 20_000))
