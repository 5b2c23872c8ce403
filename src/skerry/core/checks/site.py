"""What must hold of a site's decision. Written without the code that decides, so that it can judge it."""

from collections import Counter
from collections.abc import Iterator

from skerry.core.packing.types import Held
from skerry.core.policy.isolation import needed_features
from skerry.core.reconcile.site_types import SiteDecision, SiteInput
from skerry.core.types.ids import AccountId, AppName, InstanceId, NodeId, VersionId
from skerry.core.types.resources import Resources
from skerry.core.types.slices import SERVING_STATES, ObservedInstance

AppKey = tuple[AccountId, AppName]


def site_violations(given: SiteInput, decision: SiteDecision) -> tuple[str, ...]:
    """Every promise the decision breaks, in words; empty: it may be carried out. Never raises on a wrong decision."""
    checker = _Checker(given, decision)
    return (
        *checker.nodes(),
        *checker.identities(),
        *checker.counts(),
        *checker.priorities(),
        *checker.moves(),
        *checker.routes(),
        *checker.make_before_break(),
    )


class _Checker:
    def __init__(self, given: SiteInput, decision: SiteDecision) -> None:
        self.given, self.decision = given, decision
        self.held = {held.instance: held for held in decision.memory.held}
        self.retiring = {entry.held.instance: entry for entry in decision.memory.retiring}
        self.told = {entry.held.instance for entry in decision.preempted}  # to give way to a higher priority
        self.told |= {entry.held.instance for entry in given.memory.retiring if entry.gave_way}
        self.node_of: dict[InstanceId, NodeId] = {
            instance.id: contents.node for contents in decision.slices for instance in contents.instances
        }
        self.observed: dict[InstanceId, ObservedInstance] = {
            seen.id: seen for heard in given.reports if heard.report.node.id not in given.lost for seen in heard.report.instances
        }
        self.remembered = [*given.memory.held, *(entry.held for entry in given.memory.retiring)]
        self.node_before = {held.instance: held.node for held in self.remembered}
        self.heard = {heard.report.node.id for heard in given.reports}
        self.served = {entry.instance: entry.address for entry in given.memory.serving}
        self.weights: dict[InstanceId, int] = {
            target.instance: target.weight for route in decision.routes.routes for target in route.targets
        }

    def nodes(self) -> Iterator[str]:
        """Wanted instances only on nodes that are up, and never more than a node has."""
        nodes = {node.id: node for node in self.decision.nodes}
        used: dict[NodeId, Resources] = {}
        for held in self.held.values():
            used[held.node] = used.get(held.node, Resources()) + held.reserve
        for name, amount in sorted(used.items()):
            node = nodes.get(name)
            if node is None:
                yield f"{name}: no such node"
                continue
            if not amount.fits_in(node.capacity):
                yield f"{name}: more is promised than the node has"
            if name in self.given.lost:
                yield f"{name}: instances wanted on a lost node"
            if name in self.given.cut_off:
                yield f"{name}: instances wanted on a node that is cut off"
            if name in self.given.slice_.draining_nodes:
                yield f"{name}: instances wanted on a draining node"

    def identities(self) -> Iterator[str]:
        """Each instance once: in one list of the memory, and in the slice of its own node."""
        both = self.held.keys() & self.retiring.keys()
        yield from (f"instance {name} is wanted and retiring" for name in sorted(both))
        listed = Counter(instance.id for contents in self.decision.slices for instance in contents.instances)
        yield from (f"instance {name} stands {count} times in slices" for name, count in sorted(listed.items()) if count > 1)
        known = {name: held.node for name, held in self.held.items()}
        known |= {name: entry.held.node for name, entry in self.retiring.items()}
        for name in sorted(known.keys() | self.node_of.keys()):
            if known.get(name) != self.node_of.get(name):
                yield f"instance {name} belongs on {known.get(name)}, and is in the slice of {self.node_of.get(name)}"

    def counts(self) -> Iterator[str]:
        """Of every version, what is held and what is refused add up to what is asked, at the asked generation."""
        held = Counter((entry.account, entry.app, entry.version) for entry in self.held.values())
        missing: Counter[tuple[AccountId, AppName, VersionId]] = Counter()
        generations = {(app.account, app.app): app.plan_generation for app in self.given.slice_.apps}
        for refused in self.decision.refused:
            missing[(refused.account, refused.app, refused.version)] += refused.missing
            if refused.plan_generation != generations.get((refused.account, refused.app)):
                yield f"{refused.app}: refuses generation {refused.plan_generation}, which is not the one asked"
            if not refused.rejections:
                yield f"{refused.app}: refused without a reason"
        asked = {
            (app.account, app.app, entry.version.id): entry.count for app in self.given.slice_.apps for entry in app.versions
        }
        for key in sorted(asked.keys() | held.keys() | missing.keys()):
            if held[key] + missing[key] != asked.get(key, 0):
                yield f"{key[1]}: of version {key[2]} {asked.get(key, 0)} asked, {held[key]} held, {missing[key]} refused"

    def priorities(self) -> Iterator[str]:
        """Only a higher priority makes an instance give way, and where the gap is wide enough nothing lower keeps it out."""
        gap = self.given.packing.preempt_gap
        of = {(app.account, app.app): app.priority for app in self.given.slice_.apps}
        for entry in self.decision.preempted:
            name, held = entry.held.instance, self.held
            mine, theirs = of.get((entry.held.account, entry.held.app)), of.get((entry.by_account, entry.by_app))
            if gap is None or mine is None or theirs is None or theirs - mine < gap:
                yield f"instance {name} of priority {mine} gave way to {entry.by_app} of priority {theirs}"
            if name not in self.node_before or name in held:
                yield f"instance {name} gave way, and " + ("is wanted" if name in held else "never ran")
        for name, entry in sorted(self.retiring.items()):
            if entry.gave_way and name not in self.told:
                yield f"instance {name} leaves as if it gave way, and nobody said so"
        if gap is not None:
            yield from self._kept_out(of, gap)

    def _kept_out(self, priority_of: dict[AppKey, int], gap: int) -> Iterator[str]:
        settings = self.given.packing
        if settings.per_node_max or settings.per_rack_max or settings.keep_free_percent:
            return  # room alone does not say then what may be placed
        apps = {(app.account, app.app): app for app in self.given.slice_.apps}
        seen: set[tuple[object, ...]] = set()
        for refused in self.decision.refused:
            app = apps.get((refused.account, refused.app))
            version = next((e.version for e in app.versions if e.version.id == refused.version), None) if app else None
            if app is None or version is None:
                continue
            needs = needed_features(app.features, version)
            shape = (app.priority, version.limits.reserve, needs)
            if shape not in seen:
                seen.add(shape)
                yield from self._room_for(refused.app, app.priority - gap, version.limits.reserve, needs, priority_of)

    def _room_for(
        self, app: str, lower: int, reserve: Resources, features: tuple[str, ...], priority_of: dict[AppKey, int]
    ) -> Iterator[str]:
        """Nodes where it would fit beside what may not give way to it."""
        used: dict[NodeId, Resources] = {}
        for held in self.held.values():
            if priority_of.get((held.account, held.app), lower + 1) > lower:
                used[held.node] = used.get(held.node, Resources()) + held.reserve
        for node in self.decision.nodes:
            able = node.state == "up" and set(features) <= set(node.features)
            if able and (used.get(node.id, Resources()) + reserve).fits_in(node.capacity):
                yield f"{app}: refused, and {node.id} has room for it, or lower priorities that hold it"

    def moves(self) -> Iterator[str]:
        """What is wanted and can stay is not replaced by another one."""
        before = {held.instance for held in self.remembered}
        new = {(held.account, held.app, held.version) for name, held in self.held.items() if name not in before}
        gave_way = {entry.held.instance for entry in self.decision.preempted}
        features = {
            (app.account, app.app, entry.version.id): set(needed_features(app.features, entry.version))
            for app in self.given.slice_.apps
            for entry in app.versions
        }
        nodes = {node.id: node for node in self.decision.nodes}
        used: dict[NodeId, Resources] = {}
        for held in self.held.values():
            used[held.node] = used.get(held.node, Resources()) + held.reserve
        for held in self.given.memory.held:
            node = nodes.get(held.node)
            if held.instance in self.held or held.instance in gave_way or node is None or node.state != "up":
                continue
            if (held.account, held.app, held.version) not in new:
                continue
            needs = features.get((held.account, held.app, held.version), set())
            if needs <= set(node.features) and (used.get(node.id, Resources()) + held.reserve).fits_in(node.capacity):
                yield f"{held.app}: {held.instance} could stay on {held.node}, and another one is started"

    def routes(self) -> Iterator[str]:
        """Traffic only to what can serve, at its own address; each host, port and instance in one route."""
        hosts = Counter(host for route in self.decision.routes.routes for host in route.hosts)
        yield from (f"host {name} has {count} routes" for name, count in sorted(hosts.items()) if count > 1)
        ports = Counter(route.public_port for route in self.decision.routes.routes if route.public_port is not None)
        yield from (f"public port {port} has {count} routes" for port, count in sorted(ports.items()) if count > 1)
        targets = Counter(target.instance for route in self.decision.routes.routes for target in route.targets)
        yield from (f"instance {name} has {count} routes" for name, count in sorted(targets.items()) if count > 1)
        for route in self.decision.routes.routes:
            for target in route.targets:
                if self.address(target.instance) != target.address:
                    yield f"{route.app}: routes to {target.instance} at {target.address}, which does not serve there"
                if target.instance not in self.held and target.instance not in self.retiring:
                    yield f"{route.app}: routes to {target.instance}, which nobody runs"
                if not 0 <= target.weight <= 256:
                    yield f"{route.app}: weight {target.weight}"
            if any(site == self.given.slice_.site for site, _ in route.fallbacks):
                yield f"{route.app}: falls back on its own site"

    def make_before_break(self) -> Iterator[str]:
        """Where something that is here can serve, something takes traffic: an app asked for here is never left without."""
        able: dict[AppKey, list[Held]] = {}
        for held in self.remembered:
            if self.address(held.instance) is not None:
                able.setdefault((held.account, held.app), []).append(held)
        routed = {
            (held.account, held.app)
            for held in (*self.held.values(), *(entry.held for entry in self.retiring.values()))
            if self.weights.get(held.instance, 0) > 0
        }
        for app in self.given.slice_.apps:
            weight_of = {entry.version.id: entry.weight for entry in app.versions if entry.count > 0}
            key = (app.account, app.app)
            could = [held for held in able.get(key, []) if weight_of.get(held.version, 1) > 0 and held.instance not in self.told]
            if any(weight_of.values()) and could and key not in routed:
                yield f"{app.app}: {len(could)} instance(s) could serve, none is routed"

    def address(self, name: InstanceId) -> str | None:
        """Where an instance serves; None: it does not."""
        seen = self.observed.get(name)
        if seen is not None:
            again = seen.state == "starting" and self.served.get(name) == seen.address
            return seen.address if seen.state in SERVING_STATES or again else None
        node = self.node_before.get(name)
        return self.served.get(name) if node is not None and node not in self.heard and node not in self.given.lost else None
