"""The site controller's decision: what its nodes run and what its ingress routes. One pure function.

slice, reports -> nodes as they are -> pack -> held (wanted)
memory         -> what is no longer wanted retires: serves on, drains, goes     (make before break)
both           -> node slices, routes, and the memory for the next decision
"""

import msgspec

from skerry.core.packing.pack import pack
from skerry.core.packing.types import Ask, Held, Preempted
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
from skerry.core.types.app import Version
from skerry.core.types.ids import AccountId, AppName, InstanceId, NodeId, SiteId, VersionId
from skerry.core.types.place import Node, PlaceState
from skerry.core.types.plan import Reason, Rejection
from skerry.core.types.resources import Resources
from skerry.core.types.slices import SERVING_STATES, NodeInstance, Refused, SiteSlice

AppKey = tuple[AccountId, AppName]


def decide_site(given: SiteInput) -> SiteDecision:
    """Everything a site does next. Equal inputs, in any order of their items, give equal decisions."""
    nodes = _nodes(given)
    here = {node.id for node in nodes if node.state != "down"}
    serving = _serving(given, here)
    current = _current(given.memory, here)
    held = tuple(held for held in given.memory.held if held.node in here)
    packing = pack(nodes, _asks(given.slice_), held, given.packing, retiring=current[len(held) :])
    wanted = packing.held
    gave_way = _gave_way(given, packing.preempted)
    retiring = _retire(given, current, wanted, serving, gave_way)
    versions = _versions(given, wanted, retiring)
    staying = {held.instance for held in wanted} | {entry.held.instance for entry in retiring}
    decided = SiteMemory(
        held=wanted,
        retiring=retiring,
        versions=tuple(versions[name] for name in sorted(versions)),
        nodes=nodes,
        serving=tuple(Serving(instance=name, address=serving[name]) for name in sorted(serving) if name in staying),
    )
    return SiteDecision(
        memory=decided,
        slices=_slices(nodes, wanted, retiring, versions),
        routes=route_table(given.slice_, wanted, retiring, serving),
        refused=_with_reasons(packing.refused, given.slice_.site),
        nodes=_with_reserved(nodes, wanted),
        wake_ms=_wake_ms(retiring, given.now_ms),
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
    """Every node ever heard of, as last reported, marked lost (down) or draining, in id order."""
    known = {node.id: node for node in given.memory.nodes}
    known |= {heard.report.node.id: heard.report.node for heard in given.reports}

    def state(node: Node) -> PlaceState:
        if node.id in given.lost:
            return "down"
        return "draining" if node.id in given.slice_.draining_nodes else "up"

    return tuple(msgspec.structs.replace(known[name], state=state(known[name])) for name in sorted(known))


def _serving(given: SiteInput, here: set[NodeId]) -> dict[InstanceId, str]:
    """Address of every instance that can serve now. A node not heard of yet counts as its memory says.

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
    return serving


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
            features=app.features,
            priority=app.priority,
        )
        for app in slice_.apps
        for entry in app.versions
        if entry.count > 0
    )


def _gave_way(given: SiteInput, preempted: tuple[Preempted, ...]) -> dict[InstanceId, int]:
    """When each instance that had to make room was told so: now, or before."""
    before = {entry.held.instance: entry.gave_way_ms for entry in given.memory.retiring if entry.gave_way_ms is not None}
    return {entry.held.instance: given.now_ms for entry in preempted} | before


def _retire(
    given: SiteInput,
    current: tuple[Held, ...],
    wanted: tuple[Held, ...],
    serving: dict[InstanceId, str],
    gave_way: dict[InstanceId, int],
) -> tuple[Retiring, ...]:
    """The instances no longer wanted that have to stay for now, in id order.

    One that serves stays until enough of its app's wanted ones do (all that are held: what was refused does not
    count), then drains. One that cannot serve is of no use and goes at once. A drain that began is taken
    back when the replacement stops serving. One that gave way does not wait for what will never come: it drains when nothing
    of its app is wanted here, or what is wanted is not ready in time.
    """
    wanted_ids = {held.instance for held in wanted}
    wanted_apps = {(held.account, held.app) for held in wanted}
    draining = {entry.held.instance: entry.drain_since_ms for entry in given.memory.retiring}
    replaced = _replaced(given.slice_, wanted, serving)
    staying: list[Retiring] = []
    for held in sorted(current, key=lambda held: held.instance):
        if held.instance in wanted_ids or held.instance not in serving:
            continue
        gave_way_ms = gave_way.get(held.instance)
        must_go = gave_way_ms is not None and (
            (held.account, held.app) not in wanted_apps or given.now_ms - gave_way_ms >= DRAIN_MAX_MS
        )
        if not must_go and not replaced.get((held.account, held.app), True):
            staying.append(Retiring(held=held, gave_way_ms=gave_way_ms))
            continue
        since = draining.get(held.instance)
        since = given.now_ms if since is None else since
        if not _drained(held, since, given):
            staying.append(Retiring(held=held, drain_since_ms=since, gave_way_ms=gave_way_ms))
    return tuple(staying)


def _replaced(slice_: SiteSlice, wanted: tuple[Held, ...], serving: dict[InstanceId, str]) -> dict[AppKey, bool]:
    """For every app that is asked for here: whether its wanted instances serve, so that old ones may drain."""
    result: dict[AppKey, bool] = {}
    held_of: dict[AppKey, list[Held]] = {}
    for held in wanted:
        held_of.setdefault((held.account, held.app), []).append(held)
    for app in slice_.apps:
        if any(entry.count > 0 for entry in app.versions):
            mine = held_of.get((app.account, app.app), [])
            result[(app.account, app.app)] = bool(mine) and all(held.instance in serving for held in mine)
    return result


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
    nodes: tuple[Node, ...], wanted: tuple[Held, ...], retiring: tuple[Retiring, ...], versions: dict[VersionId, Version]
) -> tuple[NodeContents, ...]:
    contents: dict[NodeId, list[NodeInstance]] = {node.id: [] for node in nodes}
    for held in (*wanted, *(entry.held for entry in retiring)):
        contents[held.node].append(NodeInstance(id=held.instance, version=versions[held.version]))
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


def _wake_ms(retiring: tuple[Retiring, ...], now_ms: int) -> int | None:
    """When the next drain can end, or has to begin, by time alone."""
    due = [
        since + (DRAIN_MIN_MS if now_ms < since + DRAIN_MIN_MS else DRAIN_MAX_MS)
        for entry in retiring
        if (since := entry.drain_since_ms) is not None
    ]
    due += [
        entry.gave_way_ms + DRAIN_MAX_MS for entry in retiring if entry.gave_way_ms is not None and entry.drain_since_ms is None
    ]
    return min(due, default=None)
