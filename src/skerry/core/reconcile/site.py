"""The site controller's decision: what its nodes run and what its ingress routes. One pure function.

slice, reports -> nodes as they are -> pack -> held (wanted)
memory         -> what is no longer wanted retires: serves on, drains, goes     (make before break)
both           -> node slices, routes, and the memory for the next decision
"""

import msgspec

from skerry.core.packing.pack import pack
from skerry.core.packing.types import Ask, Held, Preempted
from skerry.core.policy.isolation import needed_features
from skerry.core.reconcile.site_routes import route_table
from skerry.core.reconcile.site_types import (
    DRAIN_MAX_MS,
    DRAIN_MIN_MS,
    NodeContents,
    NodeHeard,
    Retiring,
    Serving,
    SiteDecision,
    SiteInput,
    SiteMemory,
)
from skerry.core.reconcile.warmth import Warmth
from skerry.core.types.app import PRIORITY_NEUTRAL, Version
from skerry.core.types.ids import AccountId, AppName, InstanceId, NodeId, SiteId, VersionId
from skerry.core.types.place import Node, PlaceState
from skerry.core.types.plan import Reason, Rejection
from skerry.core.types.resources import Resources
from skerry.core.types.slices import SERVING_STATES, NodeInstance, ObservedInstance, Refused, SiteSlice

AppKey = tuple[AccountId, AppName]


def decide_site(given: SiteInput) -> SiteDecision:
    """Everything a site does next. Equal inputs, in any order of their items, give equal decisions."""
    nodes = _nodes(given)
    here = {node.id for node in nodes if node.state != "down"}
    serving = _serving(given, here)
    since_ms = _since_ms(given, serving)
    current = _current(given.memory, here)
    held = tuple(held for held in given.memory.held if held.node in here)
    packing = pack(nodes, _asks(given.slice_), held, given.packing, retiring=current[len(held) :])
    wanted = packing.held
    retiring = _retire(given, current, wanted, serving, packing.preempted)
    versions = _versions(given, wanted, retiring)
    staying = {held.instance for held in wanted} | {entry.held.instance for entry in retiring}
    decided = SiteMemory(
        held=wanted,
        retiring=retiring,
        versions=tuple(versions[name] for name in sorted(versions)),
        nodes=nodes,
        serving=tuple(
            Serving(instance=name, address=serving[name], since_ms=since_ms[name]) for name in sorted(serving) if name in staying
        ),
    )
    warm = Warmth(since_ms, given.now_ms)
    routes = route_table(given.slice_, wanted, retiring, serving, warm)
    return SiteDecision(
        memory=decided,
        slices=_slices(given, nodes, wanted, retiring, versions),
        routes=routes,
        refused=_with_reasons(packing.refused, given.slice_.site),
        nodes=_with_reserved(nodes, wanted),
        wake_ms=_wake_ms(retiring, given.now_ms, warm.next_step_ms),
        preempted=packing.preempted,
    )


def remember(slice_: SiteSlice, reports: tuple[NodeHeard, ...]) -> SiteMemory:
    """A memory made from what nodes report, for a controller that lost its own: what runs and is asked stays.

    For the first decision only: later, a report older than a drop would bring the dropped instance back.
    """
    asked = {(app.account, app.app, entry.version.id): entry.version for app in slice_.apps for entry in app.versions}
    held = [
        Held(
            instance=seen.id,
            node=heard.report.node.id,
            account=seen.account,
            app=seen.app,
            version=seen.version,
            reserve=asked[(seen.account, seen.app, seen.version)].limits.reserve,
        )
        for heard in reports
        for seen in heard.report.instances
        if (seen.account, seen.app, seen.version) in asked and seen.state != "stopping"
    ]
    return SiteMemory(
        held=tuple(sorted(held, key=lambda item: item.instance)),
        versions=tuple(asked[key] for key in sorted(asked, key=lambda key: key[2])),
    )


def _nodes(given: SiteInput) -> tuple[Node, ...]:
    """Every node ever heard of, as last reported, marked lost (down), cut off or draining, in id order."""
    known = {node.id: node for node in given.memory.nodes}
    known |= {heard.report.node.id: heard.report.node for heard in given.reports}

    def state(node: Node) -> PlaceState:
        if node.id in given.lost:
            return "down"
        if node.id in given.cut_off:
            return "cut_off"
        return "draining" if node.id in given.slice_.draining_nodes else "up"

    return tuple(msgspec.structs.replace(known[name], state=state(known[name])) for name in sorted(known))


def _serving(given: SiteInput, here: set[NodeId]) -> dict[InstanceId, str]:
    """Address of every instance that can serve now; "" of a program that serves nobody, but does, or did, what it is for. A node
    not heard of yet counts as its memory says.

    One that served and is starting again (woken from `dead`, or restarted at once) still serves: its listener was open all
    the time and requests wait in it; without a route they would be lost.
    """
    before = {entry.instance: entry.address for entry in given.memory.serving}
    heard = {item.report.node.id for item in given.reports}
    serving = {
        held.instance: before[held.instance]
        for held in _remembered(given.memory)
        if held.instance in before and held.node in here and held.node not in heard
    }
    for item in given.reports:
        if item.report.node.id in here:
            serving |= {
                seen.id: seen.address
                for seen in item.report.instances
                if seen.address is not None
                and (seen.state in SERVING_STATES or (seen.state == "starting" and before.get(seen.id) == seen.address))
            }
            serving |= {seen.id: "" for seen in item.report.instances if _does_its_work(seen)}
    return serving


def _since_ms(given: SiteInput, serving: dict[InstanceId, str]) -> dict[InstanceId, int]:
    """Since when each of them serves; one whose process starts anew begins again."""
    before = {entry.instance: entry.since_ms for entry in given.memory.serving}
    anew = {seen.id for item in given.reports for seen in item.report.instances if seen.state == "starting"}
    return {name: given.now_ms if name in anew else before.get(name, given.now_ms) for name in serving}


def _does_its_work(seen: ObservedInstance) -> bool:
    return seen.state == "done" or (seen.address is None and seen.state in SERVING_STATES)


def _remembered(memory: SiteMemory) -> tuple[Held, ...]:
    return (*memory.held, *(entry.held for entry in memory.retiring))


def _current(memory: SiteMemory, here: set[NodeId]) -> tuple[Held, ...]:
    """What may still run: all that is remembered, less what was on nodes that are lost."""
    return tuple(held for held in _remembered(memory) if held.node in here)


def _asks(slice_: SiteSlice) -> tuple[Ask, ...]:
    return tuple(
        Ask(
            account=app.account,
            app=app.app,
            version=entry.version,
            count=entry.count,
            plan_generation=app.plan_generation,
            features=needed_features(app.features, entry.version),
            priority=app.priority,
        )
        for app in slice_.apps
        for entry in app.versions
        if entry.count > 0
    )


def _retire(
    given: SiteInput,
    current: tuple[Held, ...],
    wanted: tuple[Held, ...],
    serving: dict[InstanceId, str],
    preempted: tuple[Preempted, ...],
) -> tuple[Retiring, ...]:
    """The instances no longer wanted that have to stay for now, in id order.

    One that serves stays until its role is taken, then drains. One that cannot serve is of no use and goes at once. A
    drain that began is taken back when the replacement stops serving.
    """
    before = {entry.held.instance: entry for entry in given.memory.retiring}
    preempted_ids = {entry.held.instance for entry in preempted}
    wanted_ids = {held.instance for held in wanted}
    roles = _Roles(given.slice_, wanted, serving)
    staying: list[Retiring] = []
    for held in sorted(current, key=lambda held: held.instance):
        if held.instance in wanted_ids or held.instance not in serving:
            continue
        known = before.get(held.instance)
        since_ms = known.since_ms if known else given.now_ms
        gave_way = held.instance in preempted_ids or (known is not None and known.gave_way)
        drain_ms = None
        if roles.taken(held, gave_way=gave_way, waited_ms=given.now_ms - since_ms):
            drain_ms = known.drain_since_ms if known and known.drain_since_ms is not None else given.now_ms
        if drain_ms is None or not _drained(held, drain_ms, given):
            staying.append(Retiring(held=held, since_ms=since_ms, drain_since_ms=drain_ms, gave_way=gave_way))
    return tuple(staying)


class _Roles:
    """Who does the work of instances that are no longer wanted. Counts what is held: what was refused does not count."""

    def __init__(self, slice_: SiteSlice, wanted: tuple[Held, ...], serving: dict[InstanceId, str]) -> None:
        self._asked = {(app.account, app.app) for app in slice_.apps if any(entry.count > 0 for entry in app.versions)}
        self._held = {(held.account, held.app) for held in wanted}
        self._missing = {(held.account, held.app) for held in wanted if held.instance not in serving}
        self._missing_versions = {held.version for held in wanted if held.instance not in serving}
        weighty = {entry.version.id for app in slice_.apps for entry in app.versions if entry.weight > 0}
        self._present_versions = {held.version for held in wanted} & weighty - self._missing_versions

    def taken(self, held: Held, *, gave_way: bool, waited_ms: int) -> bool:
        """Whether an old instance may drain.

        Its app is not asked for here, or all that is held of it serves. Two do not wait for what may never come: one whose
        own version serves and takes traffic, when the other versions had their time; and one that gave way, at once when
        nothing of its app is held here, else after the same time.
        """
        app = (held.account, held.app)
        if app not in self._asked or (app in self._held and app not in self._missing):
            return True
        late = waited_ms >= DRAIN_MAX_MS
        return (gave_way and (late or app not in self._held)) or (late and held.version in self._present_versions)


def _drained(held: Held, since_ms: int, given: SiteInput) -> bool:
    waited_ms = given.now_ms - since_ms
    if waited_ms >= DRAIN_MAX_MS:
        return True
    idle = given.in_flight is not None and given.in_flight.get(held.instance, 0) == 0
    return idle and waited_ms >= DRAIN_MIN_MS


def _versions(given: SiteInput, wanted: tuple[Held, ...], retiring: tuple[Retiring, ...]) -> dict[VersionId, Version]:
    """The version records of all that is held or retires."""
    known = {version.id: version for version in given.memory.versions}
    known |= {entry.version.id: entry.version for app in given.slice_.apps for entry in app.versions}
    used = {held.version for held in wanted} | {entry.held.version for entry in retiring}
    return {name: known[name] for name in used if name in known}


def _slices(
    given: SiteInput,
    nodes: tuple[Node, ...],
    wanted: tuple[Held, ...],
    retiring: tuple[Retiring, ...],
    versions: dict[VersionId, Version],
) -> tuple[NodeContents, ...]:
    priorities = {(app.account, app.app): app.priority for app in given.slice_.apps}
    contents: dict[NodeId, list[NodeInstance]] = {node.id: [] for node in nodes}
    for held in (*wanted, *(entry.held for entry in retiring)):
        priority = priorities.get((held.account, held.app), PRIORITY_NEUTRAL)
        contents[held.node].append(NodeInstance(id=held.instance, version=versions[held.version], priority=priority))
    return tuple(
        NodeContents(node=name, instances=tuple(sorted(contents[name], key=lambda instance: instance.id)))
        for name in sorted(contents)
    )


def _with_reasons(refused: tuple[Refused, ...], site: SiteId) -> tuple[Refused, ...]:
    """Where no node is known, there is none to give a reason for."""
    nobody = Rejection(place=site, reason=Reason.NO_NODES, detail="no node has reported")
    return tuple(item if item.rejections else msgspec.structs.replace(item, rejections=(nobody,)) for item in refused)


def _with_reserved(nodes: tuple[Node, ...], wanted: tuple[Held, ...]) -> tuple[Node, ...]:
    reserved = {node.id: Resources() for node in nodes}
    for held in wanted:
        reserved[held.node] += held.reserve
    return tuple(msgspec.structs.replace(node, reserved=reserved[node.id]) for node in nodes)


def _wake_ms(retiring: tuple[Retiring, ...], now_ms: int, step_ms: int | None) -> int | None:
    """When the next drain can end, or may begin, by time alone, or the next weight grows (`step_ms`)."""
    due = [
        since + (DRAIN_MIN_MS if now_ms < since + DRAIN_MIN_MS else DRAIN_MAX_MS)
        for entry in retiring
        if (since := entry.drain_since_ms) is not None
    ]
    due += [entry.since_ms + DRAIN_MAX_MS for entry in retiring if entry.drain_since_ms is None]
    due += [step_ms] if step_ms is not None else []
    return min((at_ms for at_ms in due if at_ms > now_ms), default=None)
