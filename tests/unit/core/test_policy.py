"""Policy: what the words of a `Scale` allow, and what contradicts itself."""

import pytest

from skerry.core.policy.capacity import Room
from skerry.core.policy.places import place_rejection
from skerry.core.policy.scale import scale_faults
from skerry.core.policy.state import node_state_rejection, site_state_rejection
from skerry.core.types.app import Scale
from skerry.core.types.ids import SiteId
from skerry.core.types.plan import Reason
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
    assert node_state_rejection(make_node("lhr-1", state="down")).reason is Reason.NODE_DOWN  # type: ignore[union-attr]


def test_room_knows_that_free_memory_on_two_nodes_is_not_one_piece() -> None:
    nodes = [make_node("lhr-1", memory_mib=100), make_node("lhr-2", memory_mib=100)]
    room = Room(nodes, nodes, Resources())
    need = Resources(memory_mib=60)
    assert [room.take(need) for _ in range(3)] == [True, True, False]
    assert room.free.memory_mib == 80
    assert "spread over nodes" in room.why_not(need)


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
    ],
)
def test_what_contradicts_itself_is_named(scale: Scale, fault: str) -> None:
    assert any(fault in found for found in scale_faults(scale)), scale_faults(scale)


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
    ],
)
def test_against_the_sites_there_are_unknown_names_are_found(scale: Scale, fault: str) -> None:
    assert any(fault in found for found in scale_faults(scale, (make_site("lhr"), make_site("cur"))))
