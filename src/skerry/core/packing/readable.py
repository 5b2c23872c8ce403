"""Packing, written to be read: the definition that the fast packer (`skerry.core.packing.pack`) has to agree with exactly.

1. Every ask, by priority and size, keeps what it holds and what fits, up to its count; then what was given up, but still runs.
2. Every ask, in the same order, places what is missing: on the best node, one by one. Where none has room, instances of
   lower priority give way on the node where that costs least; they are asked again in their own turn, which is later.
3. What is still missing is refused, with a reason for every node.

Capacity is a hard limit for what is wanted (`Packing.held` and `Packing.reserved`). What is no longer asked does not count,
although the site keeps such instances for a while during a swap (make before break): reserves are far below limits, and a swap
that had to wait for room could never begin on a full node.
"""

from collections import Counter
from collections.abc import Sequence

from skerry.core.packing.rank import (
    SHORTLIST,
    Three,
    aligned,
    amounts_of,
    emptiest,
    fullest,
    kept_free,
    lack,
    most_spread,
    node_hash,
    noise_level,
    proportion,
    rack_of,
    size_order,
    tie,
    units,
    unused,
    useless_features,
)
from skerry.core.packing.reasons import NodeRoom, refusal
from skerry.core.packing.types import (
    DEFAULTS,
    NO_FACTS,
    AppKey,
    Ask,
    AskKey,
    Facts,
    Held,
    Packing,
    PackingSettings,
    Preempted,
    different_asks,
    instance_id,
)
from skerry.core.policy.capacity import has_features
from skerry.core.types.ids import InstanceId, NodeId
from skerry.core.types.place import Node
from skerry.core.types.resources import Resources
from skerry.core.types.slices import Refused
from skerry.kit.hashing import stable_hash


def pack_readably(
    nodes: tuple[Node, ...],
    asks: tuple[Ask, ...],
    current: tuple[Held, ...],
    settings: PackingSettings = DEFAULTS,
    facts: Facts = NO_FACTS,
    *,
    retiring: tuple[Held, ...] = (),
) -> Packing:
    """See `skerry.core.packing.pack.pack`. Takes time in proportion to nodes × instances."""
    different_asks(asks)
    desk = _Desk(nodes, {held.instance for held in (*current, *retiring)}, settings, facts)
    ordered = sorted(asks, key=lambda ask: size_order(ask, settings.fit, desk.largest))
    for ask in ordered:
        desk.keep(ask, current)
    for ask in ordered:
        desk.take_back(ask, retiring)
    for ask in ordered:
        desk.place_rest(ask)
    refused = [desk.refusal(ask) for ask in ordered if desk.missing(ask) > 0]
    rows = sorted(desk.rows.values(), key=lambda row: row[0].instance)
    return Packing(
        held=tuple(held for held, ask in rows if ask.starts),
        reserved=tuple(held for held, ask in rows if not ask.starts),
        refused=tuple(sorted(refused, key=lambda item: (item.account, item.app, item.version))),
        preempted=tuple(desk.preempted[name] for name in sorted(desk.preempted)),
    )


class _Desk:
    """The working state of one call."""

    def __init__(self, nodes: Sequence[Node], running: set[InstanceId], settings: PackingSettings, facts: Facts) -> None:
        self.rows: dict[InstanceId, tuple[Held, Ask]] = {}
        self.preempted: dict[InstanceId, Preempted] = {}
        self.largest = units(amounts_of(node.capacity) for node in nodes)
        self._settings = settings
        self._facts = facts
        self._nodes = sorted(nodes, key=lambda node: node.id)
        self._by_id = {node.id: node for node in nodes}
        self._free = {node.id: node.capacity for node in nodes}
        self._used_ids = running
        self._on_node: Counter[tuple[AppKey, NodeId]] = Counter()
        self._in_rack: Counter[tuple[AppKey, str]] = Counter()
        self._count: Counter[AskKey] = Counter()
        self._used: Counter[NodeId] = Counter()

    # Keeping.

    def keep(self, ask: Ask, current: Sequence[Held]) -> None:
        """Keep what runs and fits, up to the count: the fullest nodes of the app give up first."""
        valid = [held for held in current if _key(held) == ask.key and self._may_stay(held, ask)]
        for held in most_spread(valid):
            if self.missing(ask) == 0:
                return
            if ask.version.limits.reserve.fits_in(self._free[held.node]):
                self._hold(ask, held.node, held.instance)

    def take_back(self, ask: Ask, retiring: Sequence[Held]) -> None:
        """What was given up and is asked again, where a new one would have room too: else what gave way came back at once."""
        valid = [held for held in retiring if _key(held) == ask.key and self._may_stay(held, ask)]
        for held in most_spread(valid):
            if self.missing(ask) > 0 and self._fits(ask, self._by_id[held.node]):
                self._hold(ask, held.node, held.instance)

    def _may_stay(self, held: Held, ask: Ask) -> bool:
        node = self._by_id.get(held.node)
        return node is not None and _may_run(ask, node)

    def missing(self, ask: Ask) -> int:
        return ask.count - self._count[ask.key]

    # Placing.

    def place_rest(self, ask: Ask) -> None:
        self._restore(ask)
        while self.missing(ask) > 0:
            node = self._best(ask) or self._make_room(ask)
            if node is None:
                return
            self._hold(ask, node.id, self._new_id(ask, node))

    def _restore(self, ask: Ask) -> None:
        """An instance that gave way stays after all, where more was given up since than was needed."""
        for name in sorted(name for name, entry in self.preempted.items() if _key(entry.held) == ask.key):
            node = self._by_id[self.preempted[name].held.node]
            if self._fits(ask, node):
                del self.preempted[name]
                self._hold(ask, node.id, name)

    def _best(self, ask: Ask) -> Node | None:
        able = [node for node in self._nodes if self._able(ask, node) and self._fits(ask, node)]
        return min(able, key=lambda node: self._rank(ask, node), default=None)

    def _able(self, ask: Ask, node: Node) -> bool:
        """Whether the node may take one more, had it room."""
        at_node, at_rack = self._settings.per_node_max, self._settings.per_rack_max
        return (
            _may_run(ask, node)
            and (at_node is None or self._mine(ask, node) < at_node)
            and (at_rack is None or self._mine_in_rack(ask, node) < at_rack)
        )

    def _fits(self, ask: Ask, node: Node) -> bool:
        need = amounts_of(ask.version.limits.reserve)
        return all(part <= room for part, room in zip(need, self._room(node), strict=True))

    def _rank(self, ask: Ask, node: Node) -> tuple[int | str, ...]:
        """Less is better; in the order of `PackingSettings`."""
        settings = self._settings
        return (
            self._mine_in_rack(ask, node) if settings.spread_racks else 0,
            self._mine(ask, node) if settings.spread_nodes else 0,
            noise_level(self._facts.noise.get(node.id, 0)),
            0 if settings.fit == "emptiest" else useless_features(node, ask.features),
            self._lacks_blobs(ask, node),
            self._fit(ask, node),
            tie(stable_hash(ask.account, ask.app), node_hash(node.id)),
            node.id,
        )

    def _fit(self, ask: Ask, node: Node) -> int:
        room = self._room(node)
        if self._settings.fit == "emptiest":
            return emptiest(room[1])
        if self._settings.fit == "aligned":
            return aligned(room, proportion(amounts_of(ask.version.limits.reserve), self.largest), self.largest, 1)
        return fullest(room, self.largest) if self._used[node.id] else unused(room, self.largest)

    def _lacks_blobs(self, ask: Ask, node: Node) -> int:
        if not self._facts.images:
            return 0
        return 0 if ask.version.process_digests() <= self._facts.images.get(node.id, frozenset()) else 1

    # Making room.

    def _make_room(self, ask: Ask) -> Node | None:
        """End what has to give way for one more instance; the node where, or None.

        Among the nodes where the greatest priority of those that give way is least: the fewest instances, of the
        `SHORTLIST` that lack least.
        """
        able = [node for node in self._nodes if self._able(ask, node)]
        for priority in self._lower_priorities(ask):
            enough = [node for node in able if self._fits_without(ask, node, self._lower(ask, node, priority))]
            if enough:
                nearest = sorted(enough, key=lambda node: self._nearness(ask, node))[:SHORTLIST]
                victims = [self._victims(ask, node, priority) for node in nearest]
                at = min(range(len(nearest)), key=lambda at: (len(victims[at]), _memory(victims[at]), at))
                for held, owner in victims[at]:
                    self._evict(held, owner, ask)
                return nearest[at]
        return None

    def _lower_priorities(self, ask: Ask) -> list[int]:
        """Priorities that may give way to the ask, ascending."""
        gap = self._settings.preempt_gap
        if gap is None:
            return []
        return sorted({owner.priority for _, owner in self.rows.values() if owner.priority <= ask.priority - gap})

    def _lower(self, ask: Ask, node: Node, priority: int) -> list[tuple[Held, Ask]]:
        return [row for row in self.rows.values() if row[0].node == node.id and row[1].priority <= priority]

    def _fits_without(self, ask: Ask, node: Node, rows: list[tuple[Held, Ask]]) -> bool:
        need, room = amounts_of(ask.version.limits.reserve), self._room(node)
        freed = [amounts_of(held.reserve) for held, _ in rows]
        return all(need[at] <= room[at] + sum(amounts[at] for amounts in freed) for at in range(3))

    def _nearness(self, ask: Ask, node: Node) -> tuple[int | str, ...]:
        short = max(lack(amounts_of(ask.version.limits.reserve), self._room(node)))
        return (short, tie(stable_hash(ask.account, ask.app), node_hash(node.id)), node.id)

    def _victims(self, ask: Ask, node: Node, priority: int) -> list[tuple[Held, Ask]]:
        """None of them can be spared. All that may give way do, then the most important are taken back while there is room:
        small ones first, or large ones first, whichever ends fewer."""
        every = self._lower(ask, node, priority)
        choices = [self._spare(ask, node, sorted(every, key=lambda row: _worth(row, sign))) for sign in (1, -1)]
        return min(choices, key=lambda rows: (len(rows), _memory(rows)))

    def _spare(self, ask: Ask, node: Node, every: list[tuple[Held, Ask]]) -> list[tuple[Held, Ask]]:
        leaving = list(every)
        for row in every:
            rest = [other for other in leaving if other is not row]
            if self._fits_without(ask, node, rest):
                leaving = rest
        return leaving

    def _evict(self, held: Held, owner: Ask, ask: Ask) -> None:
        del self.rows[held.instance]
        self._free[held.node] = self._free[held.node] + held.reserve
        self._counted(owner, held.node, -1)
        self.preempted[held.instance] = Preempted(
            held=held, priority=owner.priority, by_account=ask.account, by_app=ask.app, by_priority=ask.priority
        )

    # The books.

    def _hold(self, ask: Ask, node: NodeId, instance: InstanceId) -> None:
        reserve = ask.version.limits.reserve
        held = Held(instance=instance, node=node, account=ask.account, app=ask.app, version=ask.version.id, reserve=reserve)
        self.rows[instance] = (held, ask)
        self._used_ids.add(instance)
        self._free[node] = self._free[node].less(reserve)
        self._counted(ask, node, 1)

    def _counted(self, ask: Ask, node: NodeId, by: int) -> None:
        self._on_node[(ask.account, ask.app), node] += by
        self._in_rack[(ask.account, ask.app), rack_of(self._by_id[node])] += by
        self._count[ask.key] += by
        self._used[node] += by

    def _mine(self, ask: Ask, node: Node) -> int:
        return self._on_node[(ask.account, ask.app), node.id]

    def _mine_in_rack(self, ask: Ask, node: Node) -> int:
        return self._in_rack[(ask.account, ask.app), rack_of(node)]

    def _room(self, node: Node) -> Three:
        """What is free for new instances; below zero where what is to be kept free is used already."""
        free, kept = amounts_of(self._free[node.id]), kept_free(node, self._settings)
        return (free[0] - kept[0], free[1] - kept[1], free[2] - kept[2])

    def _new_id(self, ask: Ask, node: Node) -> InstanceId:
        ordinal = 0
        while (name := instance_id(ask.account, ask.app, ask.version.id, node.id, ordinal)) in self._used_ids:
            ordinal += 1
        return name

    # Refusing.

    def refusal(self, ask: Ask) -> Refused:
        above: dict[NodeId, Resources] = {}
        for held, owner in self.rows.values():
            if owner.priority > ask.priority:
                above[held.node] = above.get(held.node, Resources()) + held.reserve
        rooms = [
            NodeRoom(
                node=node,
                room=self._room(node),
                above=amounts_of(above.get(node.id, Resources())),
                mine=self._mine(ask, node),
                mine_in_rack=self._mine_in_rack(ask, node),
            )
            for node in self._nodes
        ]
        return refusal(ask, self.missing(ask), rooms, self._settings)


def _may_run(ask: Ask, node: Node) -> bool:
    return node.state == "up" and has_features(node, ask.features)


def _key(held: Held) -> AskKey:
    return (held.account, held.app, held.version)


def _memory(rows: list[tuple[Held, Ask]]) -> int:
    return sum(held.reserve.memory_mib for held, _ in rows)


def _worth(row: tuple[Held, Ask], sign: int) -> tuple[int | str, ...]:
    """The most important first; among equals the small (`sign` 1) or the large (-1) ones."""
    held, owner = row
    return (-owner.priority, sign * held.reserve.memory_mib, sign * held.reserve.cpu_millicores, held.instance)
