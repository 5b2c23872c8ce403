"""A site in memory, for tests of its decision."""

from msgspec.structs import replace

from skerry.core.checks.site import site_violations
from skerry.core.reconcile.site import decide_site
from skerry.core.reconcile.site_types import NodeHeard, SiteDecision, SiteInput, SiteMemory
from skerry.core.types.app import Version
from skerry.core.types.ids import AppName, InstanceId, NodeId, SiteId
from skerry.core.types.routes import RouteTable
from skerry.core.types.slices import InstanceState, NodeInstance, ObservedInstance, Peer, SiteSlice, SliceApp, SliceVersion
from skerry.testing.builders import ACCOUNT, make_node, make_observed, make_report, make_version

V1, V2 = make_version(1), make_version(2)
PEERS = (Peer(site=SiteId("cur"), address="cur.test:8081"), Peer(site=SiteId("sin"), address="sin.test:8081"))


def app_slice(*versions: tuple[Version, int, int], name: str = "hello") -> SliceApp:
    return SliceApp(
        account=ACCOUNT,
        account_name="acme",
        app=AppName(name),
        plan_generation=1,
        versions=tuple(SliceVersion(version=version, count=count, weight=weight) for version, count, weight in versions),
        hosts=(f"{name}.acme.localhost",),
        fallbacks=(SiteId("cur"), SiteId("sin")),
    )


class Site:
    """A site whose nodes do at once what their slices say; what is new takes until `ready` names its version."""

    def __init__(self, nodes: int = 2) -> None:
        self.nodes = [make_node(f"lhr-{n}") for n in range(1, nodes + 1)]
        self.slice = SiteSlice(site=SiteId("lhr"), generation=1, peers=PEERS)
        self.memory = SiteMemory()
        self.running: dict[str, dict[InstanceId, ObservedInstance]] = {node.id: {} for node in self.nodes}
        self.silent: set[NodeId] = set()
        self.lost: frozenset[NodeId] = frozenset()
        self.cut_off: frozenset[NodeId] = frozenset()
        self.in_flight: dict[InstanceId, int] | None = {}
        self.now_ms = 1000
        self.decision: SiteDecision | None = None

    def ask(self, *apps: SliceApp, draining_nodes: tuple[str, ...] = ()) -> None:
        self.slice = replace(
            self.slice,
            generation=self.slice.generation + 1,
            apps=apps,
            draining_nodes=tuple(NodeId(node) for node in draining_nodes),
        )

    def given(self) -> SiteInput:
        reports = tuple(
            NodeHeard(report=make_report(node, tuple(self.running[node.id].values())), heard_ms=self.now_ms)
            for node in self.nodes
            if node.id not in self.silent
        )
        return SiteInput(
            slice_=self.slice,
            memory=self.memory,
            reports=reports,
            lost=self.lost,
            in_flight=self.in_flight,
            now_ms=self.now_ms,
            cut_off=self.cut_off,
        )

    def decide(self) -> RouteTable:
        given = self.given()
        self.decision = decide_site(given)
        assert site_violations(given, self.decision) == ()
        self.memory = self.decision.memory
        for contents in self.decision.slices:
            old = self.running[contents.node]
            self.running[contents.node] = {entry.id: old.get(entry.id, self._first_seen(entry)) for entry in contents.instances}
        return self.decision.routes

    def _first_seen(self, entry: NodeInstance) -> ObservedInstance:
        seen = make_observed(entry.id, entry.version, "starting")
        served = entry.version.program is None or entry.version.program.port is not None
        return seen if served else replace(seen, address=None)

    def become(self, version: Version, state: InstanceState, *, only: int = 99) -> None:
        for instances in self.running.values():
            for name, seen in instances.items():
                if seen.version == version.id and only > 0 and seen.state != state:
                    instances[name] = replace(seen, state=state)
                    only -= 1

    def settle(self, version: Version) -> RouteTable:
        """Decide, let `version` come up, decide again."""
        self.decide()
        self.become(version, "running")
        return self.decide()

    def versions(self) -> list[str]:
        return sorted(seen.version for instances in self.running.values() for seen in instances.values())


def weights(table: RouteTable, site: Site) -> dict[str, list[int]]:
    version_of = {name: seen.version for instances in site.running.values() for name, seen in instances.items()}
    found: dict[str, list[int]] = {}
    for route in table.routes:
        for target in route.targets:
            found.setdefault(version_of.get(target.instance, "?"), []).append(target.weight)
    return found


def decided(site: Site) -> SiteDecision:
    site.decide()
    assert site.decision is not None
    return site.decision


def two_apps(priority: int, other: Version, *, count: int = 2) -> tuple[SliceApp, SliceApp]:
    return app_slice((V1, count, 256)), replace(app_slice((other, 1, 256), name="urgent"), priority=priority)
