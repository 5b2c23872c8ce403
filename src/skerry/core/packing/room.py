"""Making room: which instances of lower priority give way for one of a higher, and where."""

from collections.abc import Iterable

import numpy as np

from skerry.core.packing.columns import Choice, Columns, Mask
from skerry.core.packing.rank import SHORTLIST, Column, Three, amounts_of, lack
from skerry.core.packing.types import Ask, Held
from skerry.core.types.ids import InstanceId

Row = tuple[Held, Ask]
Amount3 = tuple[Column, Column, Column]


class Lower:
    """What may give way, by node and by priority. Make it when all is kept; nothing that is placed later may give way to what
    is placed after it, since that has no higher priority."""

    def __init__(self, columns: Columns, rows: Iterable[Row]) -> None:
        self._columns = columns
        self._rows: list[dict[InstanceId, Row]] = [{} for _ in columns.nodes]
        self._levels: dict[int, Amount3] = {}
        self.least: int | None = None
        grouped: dict[int, list[tuple[int, Three]]] = {}
        for held, owner in rows:
            at = columns.index[held.node]
            self._rows[at][held.instance] = (held, owner)
            grouped.setdefault(owner.priority, []).append((at, amounts_of(held.reserve)))
        for priority, entries in grouped.items():
            where = np.array([at for at, _ in entries], np.int64)
            parts = np.array([part for _, part in entries], np.int64)
            self._levels[priority] = (self._sum(where, parts[:, 0]), self._sum(where, parts[:, 1]), self._sum(where, parts[:, 2]))

    def make_room(self, ask: Ask, choice: Choice, gap: int) -> tuple[int, list[Row]] | None:
        """The node and who has to leave it, so that one more of the ask fits there; None: nowhere. Changes nothing.

        Among the nodes where the greatest priority of those that leave is least: the fewest instances, of the `SHORTLIST`
        that lack least.
        """
        room = self._columns.room
        freed = (room[0].copy(), room[1].copy(), room[2].copy())
        able = choice.able()
        for priority in sorted(level for level in self._levels if level <= ask.priority - gap):
            for column, part in zip(freed, self._levels[priority], strict=True):
                np.add(column, part, out=column)
            enough = able & _fits(choice.need, freed)
            if enough.any():
                return self._least(np.flatnonzero(enough), choice, priority)
        return None

    def leave(self, row: Row) -> None:
        """The instance has gone."""
        held, owner = row
        at = self._columns.index[held.node]
        del self._rows[at][held.instance]
        for column, part in zip(self._levels[owner.priority], amounts_of(held.reserve), strict=True):
            column[at] -= part

    def _sum(self, where: Column, parts: Column) -> Column:
        column: Column = np.zeros(len(self._columns.nodes), np.int64)
        np.add.at(column, where, parts)
        return column

    def _least(self, enough: Column, choice: Choice, priority: int) -> tuple[int, list[Row]]:
        cpu, memory, disk = self._columns.room
        lacks = lack(choice.need, (cpu[enough], memory[enough], disk[enough]))
        short = np.maximum(np.maximum(lacks[0], lacks[1]), lacks[2])
        nearest = enough[np.lexsort((enough, choice.ties(enough), short))[:SHORTLIST]]
        victims = [self._victims(int(at), choice.need, priority) for at in nearest]
        best = min(range(len(nearest)), key=lambda at: (len(victims[at]), _memory(victims[at]), at))
        return int(nearest[best]), victims[best]

    def _victims(self, at: int, need: Three, priority: int) -> list[Row]:
        """None of them can be spared. All that may leave do, then the most important are taken back while there is room:
        small ones first, or large ones first, whichever ends fewer."""
        every = [row for row in self._rows[at].values() if row[1].priority <= priority]
        choices = [self._spare(at, need, sorted(every, key=lambda row: worth(row, sign))) for sign in (1, -1)]
        return min(choices, key=lambda rows: (len(rows), _memory(rows)))

    def _spare(self, at: int, need: Three, every: list[Row]) -> list[Row]:
        amounts = [amounts_of(held.reserve) for held, _ in every]
        spare = [have + sum(one[part] for one in amounts) - need[part] for part, have in enumerate(self._columns.room_at(at))]
        leaving: list[Row] = []
        for row, amount in zip(every, amounts, strict=True):
            if all(part <= left for part, left in zip(amount, spare, strict=True)):
                spare = [left - part for part, left in zip(amount, spare, strict=True)]
            else:
                leaving.append(row)
        return leaving


def worth(row: Row, sign: int) -> tuple[int | str, ...]:
    """The most important first; among equals the small (`sign` 1) or the large (-1) ones."""
    held, owner = row
    return (-owner.priority, sign * held.reserve.memory_mib, sign * held.reserve.cpu_millicores, held.instance)


def _memory(rows: list[Row]) -> int:
    return sum(held.reserve.memory_mib for held, _ in rows)


def _fits(need: Three, room: Amount3) -> Mask:
    return (room[0] >= need[0]) & (room[1] >= need[1]) & (room[2] >= need[2])
