"""Short ways to make records for tests and scenarios. Defaults are those of a small, healthy platform."""

from collections.abc import Sequence

from skerry.core.placement.world import SiteView
from skerry.core.types.app import App, Limits, Scale, Version
from skerry.core.types.ids import (
    AccountId,
    AppName,
    DeploymentId,
    Digest,
    EvaluationId,
    InstanceId,
    NodeId,
    SiteId,
    VersionId,
)
from skerry.core.types.place import Node, PlaceState, Site
from skerry.core.types.plan import Evaluation, EvaluationCause
from skerry.core.types.resources import Resources
from skerry.core.types.slices import InstanceState, NodeReport, ObservedInstance

ACCOUNT = AccountId("0" * 31 + "1")
COMPATIBILITY_DATE = "2026-01-01"

PLACES: dict[str, tuple[str, str, str, float, float]] = {
    "lhr": ("London", "GB", "weur", 51.4706, -0.4619),
    "cur": ("Curaçao", "CW", "sam", 12.1889, -68.9598),
    "sin": ("Singapore", "SG", "apac", 1.3502, 103.9944),
    "fra": ("Frankfurt", "DE", "weur", 50.0264, 8.5431),
    "nrt": ("Tokyo", "JP", "apac", 35.7647, 140.3864),
}


def make_site(name: str, *, state: PlaceState = "up") -> Site:
    """One of `PLACES`, or a made-up place at a position derived from its name's letters."""
    city, country, region, lat, lon = PLACES.get(name, (name, "ZZ", "oc", sum(map(ord, name)) % 80, sum(map(ord, name)) % 170))
    return Site(
        id=SiteId(name),
        city=city,
        country=country,
        region=region,
        lat=lat,
        lon=lon,
        address=f"{name}.test:8080",
        peer_address=f"{name}.test:8081",
        state=state,
    )


def make_node(
    name: str,
    *,
    cpu_millicores: int = 2000,
    memory_mib: int = 1024,
    disk_mib: int = 10_000,
    state: PlaceState = "up",
    features: Sequence[str] = (),
) -> Node:
    """`name` is `<site>-<n>`."""
    return Node(
        id=NodeId(name),
        site=SiteId(name.rpartition("-")[0]),
        address=f"{name}.test",
        capacity=Resources(cpu_millicores=cpu_millicores, memory_mib=memory_mib, disk_mib=disk_mib),
        state=state,
        features=tuple(features),
    )


def make_view(name: str, nodes: int = 3, *, state: PlaceState = "up", others_mib: int = 0, memory_mib: int = 1024) -> SiteView:
    """A site of equal nodes, of whose memory other apps hold `others_mib`."""
    return SiteView(
        site=make_site(name, state=state),
        nodes=tuple(make_node(f"{name}-{number}", memory_mib=memory_mib) for number in range(1, nodes + 1)),
        others=Resources(memory_mib=others_mib),
    )


def make_version(number: int = 1, *, app: str = "hello", memory_mib: int = 12, cpu_millicores: int = 10) -> Version:
    return Version(
        id=VersionId(f"{app}-v{number}"),
        account=ACCOUNT,
        app=AppName(app),
        number=number,
        created_ms=0,
        digest=Digest(f"{number:064x}"),
        compatibility_date=COMPATIBILITY_DATE,
        limits=Limits(reserve=Resources(cpu_millicores=cpu_millicores, memory_mib=memory_mib, disk_mib=1)),
    )


def make_app(name: str = "hello", *, scale: Scale | None = None, deployment: str | None = "d1", enabled: bool = True) -> App:
    return App(
        account=ACCOUNT,
        name=AppName(name),
        tag="0" * 32,
        created_ms=0,
        modified_ms=0,
        generation=1,
        deployment=DeploymentId(deployment) if deployment else None,
        enabled=enabled,
        scale=scale or Scale(),
    )


def make_evaluation(app: str = "hello", *, cause: EvaluationCause = "deploy") -> Evaluation:
    return Evaluation(id=EvaluationId(f"e-{app}-{cause}"), account=ACCOUNT, app=AppName(app), cause=cause, created_ms=0)


def make_observed(
    instance: str, version: Version, state: InstanceState = "running", *, address: str | None = None
) -> ObservedInstance:
    """As an agent sees it; its address is made from its id unless it is given."""
    return ObservedInstance(
        id=InstanceId(instance),
        account=version.account,
        app=version.app,
        version=version.id,
        state=state,
        since_ms=0,
        address=address or f"{instance}.test:80",
    )


def make_report(node: Node, instances: Sequence[ObservedInstance] = (), *, generation: int = 0) -> NodeReport:
    return NodeReport(node=node, epoch="e1", sequence=1, slice_generation=generation, instances=tuple(instances))
