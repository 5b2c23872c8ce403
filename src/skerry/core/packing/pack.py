"""Packing, fast: thousands of nodes and instances as NumPy columns. What it decides is defined by `readable.py`.

keep      all that runs and may stay, at once; one by one only on nodes that have become too small
place     rounds of the best nodes of the columns, as many at a time as do not change each other's order
make room where nothing fits, instances of lower priority give way
refuse    a reason for every node, told once for all asks of the same shape
"""

from collections.abc import Iterable
from operator import attrgetter

import numpy as np

from skerry.core.packing.columns import Choice, Columns
from skerry.core.packing.rank import Column, Three, amounts_of, most_spread, size_order
from skerry.core.packing.reasons import NodeRoom, rejections
from skerry.core.packing.room import Lower, Row
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
from skerry.core.types.ids import InstanceId, NodeId
from skerry.core.types.place import Node
from skerry.core.types.plan import Rejection
from skerry.core.types.slices import Refused


def pack(
    nodes: tuple[Node, ...],
    asks: tuple[Ask, ...],
    current: tuple[Held, ...],
    settings: PackingSettings = DEFAULTS,
    facts: Facts = NO_FACTS,
    *,
    retiring: tuple[Held, ...] = (),
) -> Packing:
    """Decide which instance runs on which node. Pure; the order of the arguments' items does not matter.

    `current`: what the site holds (`Packing.held` and `reserved` of before); what of it is asked, and fits on a node that is up,
    stays, unless it has to give way to a higher priority. `retiring`: what was given up, but still runs; it comes back where more
    is asked and there is room. With the same nodes and asks, what was decided is decided again.
    Raises ValueError when two asks name the same version of the same app, or there are more than 2**20 nodes.
    """
    different_asks(asks)
    desk = _Desk(nodes, (*current, *retiring), settings, facts)
    ordered = sorted(asks, key=lambda ask: size_order(ask, settings.fit, desk.columns.largest))
    desk.keep(ordered, _by_ask(current))
    desk.take_back(ordered, _by_ask(retiring))
    for ask in ordered:
        desk.place_rest(ask)
    rows = [desk.rows[name] for name in sorted(desk.rows)]
    return Packing(
        held=tuple(held for held, ask in rows if ask.starts),
        reserved=tuple(held for held, ask in rows if not ask.starts),
        refused=desk.refused(ordered),
        preempted=tuple(desk.preempted[name] for name in sorted(desk.preempted)),
    )


class _Desk:
    """The working state of one call."""

    def __init__(self, nodes: tuple[Node, ...], running: tuple[Held, ...], settings: PackingSettings, facts: Facts) -> None:
        self.columns = Columns(nodes, settings, facts)
        self.rows: dict[InstanceId, Row] = {}
        self.preempted: dict[InstanceId, Preempted] = {}
        self._settings = settings
        self._used_ids = set(map(attrgetter("instance"), running))
        self._mine: dict[AppKey, list[int]] = {}  # node of each instance of an app
        self._count: dict[AskKey, int] = {}
        self._gave_way: dict[AskKey, list[InstanceId]] = {}
        self._lower: Lower | None = None
        self._least: int | None = None  # the lowest priority of what is kept

    def keep(self, ordered: list[Ask], current: dict[AskKey, list[Held]]) -> None:
        """What runs and fits, up to each count; where there is too much of it, the fullest nodes of the app give up first."""
        able = [(ask, self._may_stay(ask, current)) for ask in ordered]
        left = self._too_small(able)
        needs: list[Three] = []
        where: list[int] = []
        for ask, valid in able:
            kept = valid
            if len(valid) > ask.count or (left and any(at in left for _, at in valid)):
                kept = _what_fits(ask, valid, left)
            if kept:
                self._keep(ask, kept)
                where += [at for _, at in kept]
                needs += [amounts_of(ask.version.limits.reserve)] * len(kept)
        if where:
            self._deduct(np.array(where, np.int64), np.array(needs, np.int64))

    def take_back(self, ordered: list[Ask], retiring: dict[AskKey, list[Held]]) -> None:
        """What was given up and is asked again stays, where a new one would have room too; one by one, since it is little."""
        for ask in ordered if retiring else ():
            valid = self._may_stay(ask, retiring)
            at_node = {held.node: at for held, at in valid}
            need = amounts_of(ask.version.limits.reserve)
            for held in most_spread([held for held, _ in valid]):
                at = at_node[held.node]
                if self._count.get(ask.key, 0) < ask.count and self.columns.fits_at(at, need):
                    self.columns.take_one(at, need)
                    self._keep(ask, [(held, at)])

    def place_rest(self, ask: Ask) -> None:
        missing = ask.count - self._count.get(ask.key, 0)
        if missing > 0 and ask.key in self._gave_way:
            missing -= self._restore(ask, missing)
        if missing <= 0:
            return
        choice = Choice(self.columns, ask, self._mine.get((ask.account, ask.app), ()))
        while missing > 0:
            taken = choice.next(missing)
            if len(taken) == 0:
                at = self._make_room(ask, choice)
                if at is None:
                    return
                taken = np.array([at], np.int64)
            self._take(ask, choice.need, taken)
            choice.took(taken)
            missing -= len(taken)

    def refused(self, ordered: list[Ask]) -> tuple[Refused, ...]:
        told = _Reasons(self.columns, self._settings, self.rows.values(), self._mine)
        items = [
            Refused(
                account=ask.account,
                app=ask.app,
                version=ask.version.id,
                plan_generation=ask.plan_generation,
                missing=missing,
                rejections=told.of(ask),
            )
            for ask in ordered
            if (missing := ask.count - self._count.get(ask.key, 0)) > 0
        ]
        return tuple(sorted(items, key=lambda item: (item.account, item.app, item.version)))

    # Keeping.

    def _may_stay(self, ask: Ask, current: dict[AskKey, list[Held]]) -> list[tuple[Held, int]]:
        """What there is of the ask on nodes that are up and have its features, and where."""
        mine = current.get(ask.key)
        if not mine:
            return []
        may, index = self.columns.may_list(ask.features), self.columns.index
        return [(held, at) for held in mine if (at := index.get(held.node)) is not None and may[at]]

    def _too_small(self, able: list[tuple[Ask, list[tuple[Held, int]]]]) -> dict[int, Three]:
        """The nodes that cannot keep all, with all that they have."""
        where = np.array([at for _, valid in able for _, at in valid], np.int64)
        if len(where) == 0:
            return {}
        needs = np.array([amounts_of(ask.version.limits.reserve) for ask, _ in able], np.int64).reshape(-1, 3)
        needs = np.repeat(needs, [len(valid) for _, valid in able], axis=0)
        over = np.zeros(len(self.columns.nodes), np.bool_)
        for part, capacity in enumerate(self.columns.capacity):
            over |= _added(where, needs[:, part], len(over)) > capacity
        return {int(at): amounts_of(self.columns.nodes[int(at)].capacity) for at in np.flatnonzero(over)}

    def _keep(self, ask: Ask, kept: list[tuple[Held, int]]) -> None:
        reserve = ask.version.limits.reserve
        for held, _ in kept:
            same = held if held.reserve == reserve else _held(ask, held.node, held.instance)
            self.rows[held.instance] = (same, ask)
        self._count[ask.key] = self._count.get(ask.key, 0) + len(kept)
        self._mine.setdefault((ask.account, ask.app), []).extend([at for _, at in kept])
        self._least = ask.priority if self._least is None else min(self._least, ask.priority)

    def _deduct(self, where: Column, needs: Column) -> None:
        for part, column in enumerate(self.columns.room):
            np.subtract(column, _added(where, needs[:, part], len(column)), out=column)
        self.columns.used += np.bincount(where, minlength=len(self.columns.used))

    # Placing.

    def _take(self, ask: Ask, need: Three, taken: Column) -> None:
        """Hold one more on each of these nodes: all different, or all the same."""
        if len(taken) > 1 and taken[0] == taken[-1]:
            self.columns.take_one(int(taken[0]), need, len(taken))
        else:
            self.columns.take(taken, need)
        nodes = self.columns.nodes
        chosen: list[int] = taken.tolist()
        for at in chosen:
            node = nodes[at].id
            ordinal = 0
            while (name := instance_id(ask.account, ask.app, ask.version.id, node, ordinal)) in self._used_ids:
                ordinal += 1
            self._used_ids.add(name)
            self.rows[name] = (_held(ask, node, name), ask)
        self._counted(ask, chosen)

    def _counted(self, ask: Ask, taken: list[int]) -> None:
        self._mine.setdefault((ask.account, ask.app), []).extend(taken)
        self._count[ask.key] = self._count.get(ask.key, 0) + len(taken)

    def _restore(self, ask: Ask, missing: int) -> int:
        """What gave way stays after all, where more was given up since than was needed; how many."""
        restored = 0
        need = amounts_of(ask.version.limits.reserve)
        for name in sorted(self._gave_way[ask.key]):
            held = self.preempted[name].held
            at = self.columns.index[held.node]
            if self.columns.fits_at(at, need):
                del self.preempted[name]
                self.rows[name] = (held, ask)
                self.columns.take_one(at, need)
                self._counted(ask, [at])
                restored += 1
        assert restored <= missing, "more is restored than gave way"
        return restored

    def _make_room(self, ask: Ask, choice: Choice) -> int | None:
        """End what has to give way for one more; the node where."""
        gap = self._settings.preempt_gap
        if gap is None or self._least is None or self._least > ask.priority - gap:
            return None
        if self._lower is None:
            self._lower = Lower(self.columns, self.rows.values())
        found = self._lower.make_room(ask, choice, gap)
        if found is None:
            return None
        at, victims = found
        for held, owner in victims:
            self._lower.leave((held, owner))
            self.columns.take_one(at, amounts_of(held.reserve), -1)
            del self.rows[held.instance]
            self._count[owner.key] -= 1
            self._mine[owner.account, owner.app].remove(at)
            self._gave_way.setdefault(owner.key, []).append(held.instance)
            self.preempted[held.instance] = Preempted(
                held=held, priority=owner.priority, by_account=ask.account, by_app=ask.app, by_priority=ask.priority
            )
        return at


class _Reasons:
    """Why asks do not fit, when all is packed; equal ones share their answer."""

    def __init__(self, columns: Columns, settings: PackingSettings, rows: Iterable[Row], mine: dict[AppKey, list[int]]) -> None:
        self._columns = columns
        self._settings = settings
        self._rows = rows
        self._mine = mine
        self._by_priority: dict[int, list[Row]] | None = None
        self._told: dict[tuple[object, ...], tuple[Rejection, ...]] = {}

    def of(self, ask: Ask) -> tuple[Rejection, ...]:
        limited = self._settings.per_node_max is not None or self._settings.per_rack_max is not None
        key = (ask.features, ask.version.limits.reserve, ask.priority, (ask.account, ask.app) if limited else None)
        if key not in self._told:
            self._told[key] = rejections(ask, self._rooms(ask, limited=limited), self._settings)
        return self._told[key]

    def _rooms(self, ask: Ask, *, limited: bool) -> list[NodeRoom]:
        columns = self._columns
        above = self._above(ask.priority)
        mine = self._mine.get((ask.account, ask.app), []) if limited else []
        on_node = np.bincount(np.array(mine, np.int64), minlength=len(columns.nodes))
        racks = np.bincount(columns.rack, weights=on_node, minlength=len(columns.rack_starts)).astype(np.int64)[columns.rack]
        room = list(zip(*(column.tolist() for column in columns.room), strict=True))
        return [
            NodeRoom(node=node, room=room[at], above=above[at], mine=int(on_node[at]), mine_in_rack=int(racks[at]))
            for at, node in enumerate(columns.nodes)
        ]

    def _above(self, priority: int) -> list[Three]:
        """What apps of a higher priority hold on each node."""
        if self._by_priority is None:
            self._by_priority = {}
            for row in self._rows:
                self._by_priority.setdefault(row[1].priority, []).append(row)
        sums = [(0, 0, 0)] * len(self._columns.nodes)
        for level, rows in self._by_priority.items():
            for held, _ in rows if level > priority else ():
                at = self._columns.index[held.node]
                (cpu, memory, disk), (a, b, c) = sums[at], amounts_of(held.reserve)
                sums[at] = (cpu + a, memory + b, disk + c)
        return sums


def _by_ask(current: tuple[Held, ...]) -> dict[AskKey, list[Held]]:
    grouped: dict[AskKey, list[Held]] = {}
    for held in current:
        grouped.setdefault((held.account, held.app, held.version), []).append(held)
    return grouped


def _what_fits(ask: Ask, valid: list[tuple[Held, int]], left: dict[int, Three]) -> list[tuple[Held, int]]:
    """Up to the ask's count, spread as far as can be. `left` says what nodes that are too small still have: it is used up."""
    at_node = {held.node: at for held, at in valid}
    cpu, memory, disk = amounts_of(ask.version.limits.reserve)
    kept: list[tuple[Held, int]] = []
    for held in most_spread([held for held, _ in valid]):
        if len(kept) == ask.count:
            break
        at = at_node[held.node]
        room = left.get(at)
        if room is not None:
            if cpu > room[0] or memory > room[1] or disk > room[2]:
                continue
            left[at] = (room[0] - cpu, room[1] - memory, room[2] - disk)
        kept.append((held, at))
    return kept


def _held(ask: Ask, node: NodeId, instance: InstanceId) -> Held:
    return Held(
        instance=instance,
        node=node,
        account=ask.account,
        app=ask.app,
        version=ask.version.id,
        reserve=ask.version.limits.reserve,
    )


def _added(where: Column, parts: Column, length: int) -> Column:
    column: Column = np.zeros(length, np.int64)
    np.add.at(column, where, parts)
    return column
