"""The first, simple packer of one site: keep what is valid, spread an app over nodes, then take the emptiest.

Capacity is a hard limit for what is wanted (`Packing.held`). What is no longer asked does not count, although
the site keeps such instances for a while during a swap (make before break): reserves are far below limits,
and a swap that had to wait for room could never begin on a full node.
"""

from collections import Counter
from collections.abc import Sequence
from heapq import heapify, heappop, heapreplace

from skerry.core.policy.capacity import has_features, shortage
from skerry.core.policy.state import node_state_rejection
from skerry.core.types.app import Version
from skerry.core.types.ids import AccountId, AppName, InstanceId, NodeId, VersionId
from skerry.core.types.place import Node
from skerry.core.types.plan import Reason, Rejection
from skerry.core.types.resources import Resources
from skerry.core.types.slices import Refused
from skerry.kit.hashing import stable_hash, stable_id
from skerry.kit.record import Record


class Held(Record):
    """One instance that the site has promised to run, and what it reserves on its node."""

    instance: InstanceId
    node: NodeId
    account: AccountId
    app: AppName
    version: VersionId
    reserve: Resources


class Ask(Record):
    """`count` instances of a version; only nodes with all `features` may run them."""

    account: AccountId
    app: AppName
    version: Version
    count: int
    plan_generation: int
    features: tuple[str, ...] = ()


class Packing(Record):
    """What is to run where (ordered by instance id), and what could not be packed."""

    held: tuple[Held, ...]
    refused: tuple[Refused, ...]


def instance_id(account: AccountId, app: AppName, version: VersionId, node: NodeId, ordinal: int) -> InstanceId:
    """The id of the `ordinal`-th instance (from 0) of a version on a node: any replica derives it alike."""
    return InstanceId(stable_id(account, app, version, node, str(ordinal)))


def pack(nodes: tuple[Node, ...], asks: tuple[Ask, ...], current: tuple[Held, ...]) -> Packing:
    """Decide which instance runs on which node. Pure; the order of the arguments' items does not matter.

    `current`: what the site runs now, wanted or retiring; what of it is asked and on a node that is up stays.
    Raises ValueError when two asks name the same version of the same app.
    """
    keys = [_ask_key(ask) for ask in asks]
    if len(set(keys)) != len(keys):
        raise ValueError("two asks for the same version of an app")
    desk = _Desk(nodes, current)
    ordered = sorted(asks, key=_size_order)
    for ask in ordered:
        desk.keep(ask)
    refused = [refusal for ask in ordered if (refusal := desk.place_rest(ask)) is not None]
    return Packing(
        held=tuple(sorted(desk.held, key=lambda held: held.instance)),
        refused=tuple(sorted(refused, key=lambda refusal: (refusal.account, refusal.app, refusal.version))),
    )


def _ask_key(ask: Ask) -> tuple[str, str, str]:
    return (ask.account, ask.app, ask.version.id)


def _size_order(ask: Ask) -> tuple[int, int, str, str, str]:
    """Large ones first: small ones still fit into what those leave."""
    reserve = ask.version.limits.reserve
    return (-reserve.memory_mib, -reserve.cpu_millicores, *_ask_key(ask))


class _Desk:
    """The working state of one call of `pack`."""

    def __init__(self, nodes: Sequence[Node], current: Sequence[Held]) -> None:
        self.held: list[Held] = []
        self._nodes = sorted(nodes, key=lambda node: node.id)
        self._by_id = {node.id: node for node in nodes}
        self._free = {node.id: node.capacity for node in nodes}
        self._used_ids = {held.instance for held in current}
        self._current: dict[tuple[str, str, str], list[Held]] = {}
        for held in current:
            self._current.setdefault((held.account, held.app, held.version), []).append(held)
        self._app_on_node: Counter[tuple[AccountId, AppName, NodeId]] = Counter()
        self._count: Counter[tuple[str, str, str]] = Counter()

    def keep(self, ask: Ask) -> None:
        """Keep what runs and fits, up to the count: the fullest nodes of the app give up first."""
        key = _ask_key(ask)
        valid = [held for held in self._current.get(key, []) if self._may_stay(held, ask)]
        for held in _most_spread(valid):
            if self._count[key] == ask.count:
                return
            if ask.version.limits.reserve.fits_in(self._free[held.node]):
                self._hold(ask, held.node, held.instance)

    def place_rest(self, ask: Ask) -> Refused | None:
        """Place what is missing, one by one; the reasons per node for what does not fit.

        Best is the node with the fewest instances of the app, then the most free memory. Placing changes only the node
        that was taken, so a heap stays exact; a node that is full stays full.
        """
        reserve = ask.version.limits.reserve
        missing = ask.count - self._count[_ask_key(ask)]
        heap = [self._rank(ask, node) for node in self._nodes if self._may_run(ask, node)] if missing > 0 else []
        heapify(heap)
        while missing > 0 and heap:
            node = heap[0][-1]
            if not reserve.fits_in(self._free[node]):
                heappop(heap)
                continue
            self._hold(ask, node, self._new_id(ask, node))
            missing -= 1
            heapreplace(heap, self._rank(ask, self._by_id[node]))
        return self._refusal(ask) if missing > 0 else None

    def _may_stay(self, held: Held, ask: Ask) -> bool:
        node = self._by_id.get(held.node)
        return node is not None and self._may_run(ask, node)

    def _hold(self, ask: Ask, node: NodeId, instance: InstanceId) -> None:
        reserve = ask.version.limits.reserve
        held = Held(instance=instance, node=node, account=ask.account, app=ask.app, version=ask.version.id, reserve=reserve)
        self.held.append(held)
        self._used_ids.add(instance)
        self._free[node] = self._free[node].less(reserve)
        self._app_on_node[(ask.account, ask.app, node)] += 1
        self._count[_ask_key(ask)] += 1

    def _may_run(self, ask: Ask, node: Node) -> bool:
        return node.state == "up" and has_features(node, ask.features)

    def _rank(self, ask: Ask, node: Node) -> tuple[int, int, int, NodeId]:
        on_node = self._app_on_node[(ask.account, ask.app, node.id)]
        return (on_node, -self._free[node.id].memory_mib, stable_hash(ask.account, ask.app, node.id), node.id)

    def _new_id(self, ask: Ask, node: NodeId) -> InstanceId:
        ordinal = 0
        while (name := instance_id(ask.account, ask.app, ask.version.id, node, ordinal)) in self._used_ids:
            ordinal += 1
        return name

    def _refusal(self, ask: Ask) -> Refused:
        return Refused(
            account=ask.account,
            app=ask.app,
            version=ask.version.id,
            plan_generation=ask.plan_generation,
            missing=ask.count - self._count[_ask_key(ask)],
            rejections=tuple(self._node_rejection(ask, node) for node in self._nodes),
        )

    def _node_rejection(self, ask: Ask, node: Node) -> Rejection:
        rejection = node_state_rejection(node)
        if rejection is not None:
            return rejection
        if not has_features(node, ask.features):
            return Rejection(place=node.id, reason=Reason.MISSING_FEATURE, detail=f"needs {', '.join(ask.features)}")
        reserve = ask.version.limits.reserve
        if not reserve.fits_in(node.capacity):
            return Rejection(place=node.id, reason=Reason.TOO_LARGE, detail=shortage(reserve, node.capacity))
        return Rejection(place=node.id, reason=Reason.NO_CAPACITY, detail=shortage(reserve, self._free[node.id]))


def _most_spread(instances: Sequence[Held]) -> list[Held]:
    """Ordered so that any head of the list is spread over as many nodes as it can be."""
    by_node: dict[NodeId, list[Held]] = {}
    for held in sorted(instances, key=lambda held: (stable_hash(held.instance), held.instance)):
        by_node.setdefault(held.node, []).append(held)
    ranked = [
        (ordinal, stable_hash(held.instance), held.instance, held)
        for rows in by_node.values()
        for ordinal, held in enumerate(rows)
    ]
    return [held for _, _, _, held in sorted(ranked, key=lambda row: row[:3])]
