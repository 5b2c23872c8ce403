"""`skerry apps --where`: cities, states and the limits that instances have come to."""

from skerry.apps.where import where_of
from skerry.core.types.ids import AccountId, AppName, InstanceId, NodeId, SiteId, VersionId
from skerry.core.types.slices import InstanceState
from skerry.core.types.strain import Strain, StrainOf
from skerry.core.types.view import InstanceView, Status

FULL = Strain(limit="disk", since_ms=1, text="its disk is full (64 MiB): writing fails")


def instance(number: int, site: str, state: InstanceState, strains: tuple[Strain, ...] = ()) -> InstanceView:
    return InstanceView(
        instance=InstanceId(f"{number:016x}"),
        account=AccountId("0" * 32),
        account_name="default",
        app=AppName("web"),
        version=VersionId("1"),
        site=SiteId(site),
        node=NodeId(f"{site}-1"),
        state=state,
        pid=None,
        since_ms=0,
        strains=strains,
    )


def test_each_city_has_its_states_and_what_its_instances_came_to() -> None:
    seen = (instance(1, "lhr", "running"), instance(2, "lhr", "backoff", (FULL,)), instance(3, "cur", "running"))
    (app,) = where_of(Status(sites=(), nodes=(), instances=seen, apps=()))
    cur, lhr = app.cities
    assert (cur.site, cur.states, cur.strains) == ("cur", {"running": 1}, ())
    assert (lhr.instances, lhr.serving, lhr.states) == (2, 1, {"backoff": 1, "running": 1})
    assert lhr.strains == (StrainOf(instance=InstanceId(f"{2:016x}"), node=NodeId("lhr-1"), strain=FULL),)
