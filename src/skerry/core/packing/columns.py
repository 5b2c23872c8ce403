"""A site's nodes as NumPy columns, in id order: what is free, what of an ask fits where, and which nodes are best for it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from skerry.core.packing.rank import (
    FREE_MAX,
    Column,
    Three,
    aligned,
    amounts_of,
    emptiest,
    fullest,
    kept_free,
    node_hash,
    noise_level,
    proportion,
    rack_of,
    ties,
    units,
    unused,
    useless_features,
)
from skerry.core.packing.types import Ask, Facts, PackingSettings
from skerry.core.policy.capacity import has_features
from skerry.core.types.place import Node
from skerry.kit.hashing import stable_hash

Mask = NDArray[np.bool_]

FULL = 2**62
"""The score of a node that has no room."""

# What comes before the fit, in one number: racks, nodes, noise, useless features, blobs.
_RACK, _NODE, _NOISE, _USELESS, _BLOBS = 2**31, 2**11, 2**7, 2**1, 2**0
_TIE_BITS = 20
NODES_MAX = 2**_TIE_BITS
FEW = 4
"""So few instances are chosen one by one rather than a round of racks at a time."""


class Columns:
    """`room` is free for new instances, `used` counts instances; both change by `take`. All else stays.

    Raises ValueError for more than `NODES_MAX` nodes.
    """

    def __init__(self, nodes: Sequence[Node], settings: PackingSettings, facts: Facts) -> None:
        if len(nodes) > NODES_MAX:
            raise ValueError(f"{len(nodes)} nodes in a site: at most {NODES_MAX} can be packed")
        self.nodes = sorted(nodes, key=lambda node: node.id)
        self.index = {node.id: at for at, node in enumerate(self.nodes)}
        self.settings = settings
        self.facts = facts
        capacities = [amounts_of(node.capacity) for node in self.nodes]
        self.largest = units(capacities)
        self.capacity = _columns(capacities)
        kept = [kept_free(node, settings) for node in self.nodes]
        self.room = _columns([_less(whole, part) for whole, part in zip(capacities, kept, strict=True)])
        self.used: Column = np.zeros(len(self.nodes), np.int64)
        self.hashes = np.array([node_hash(node.id) for node in self.nodes], np.uint64)
        self.labelled = any(node.rack for node in self.nodes)
        names: dict[str, int] = {}
        self.rack: Column = np.array([names.setdefault(rack_of(node), len(names)) for node in self.nodes], np.int64)
        self.by_rack: Column = np.argsort(self.rack, kind="stable")
        self.rack_starts: Column = np.searchsorted(self.rack[self.by_rack], np.arange(len(names)))
        self._may: dict[tuple[str, ...], Mask] = {}
        self._may_list: dict[tuple[str, ...], list[bool]] = {}
        self._before: dict[tuple[str, ...], Column | None] = {}
        self._shape: tuple[tuple[str, ...], Three] | None = None
        self._scores: Column = np.zeros(0, np.int64)

    def may_run(self, features: tuple[str, ...]) -> Mask:
        """Nodes that are up and have the features."""
        mask = self._may.get(features)
        if mask is None:
            able = [node.state == "up" and has_features(node, features) for node in self.nodes]
            mask = self._may[features] = np.array(able, np.bool_)
        return mask

    def may_list(self, features: tuple[str, ...]) -> list[bool]:
        """`may_run`, for many looks at single nodes."""
        if features not in self._may_list:
            self._may_list[features] = self.may_run(features).tolist()
        return self._may_list[features]

    def scores(self, features: tuple[str, ...], need: Three) -> Column:
        """The fit of every node for a shape, `FULL` where it has no room; kept up to date until another shape is asked."""
        shape = (features, need)
        if self._shape != shape:
            self._shape, self._scores = shape, self._scored(np.arange(len(self.nodes)), features, need)
        return self._scores

    def take(self, at: Column, need: Three) -> None:
        """Take `need` on each of different nodes, once."""
        if len(at) == 1:
            self.take_one(int(at[0]), need)
            return
        for column, part in zip(self.room, need, strict=True):
            column[at] -= part
        self.used[at] += 1
        if self._shape is not None:
            self._scores[at] = self._scored(at, *self._shape)

    def take_one(self, at: int, need: Three, times: int = 1) -> None:
        """Take `need` so many times on one node; `times` -1 gives it back."""
        for column, part in zip(self.room, need, strict=True):
            column[at] -= part * times
        self.used[at] += times
        if self._shape is not None:
            self._scores[at] = self._score_one(at, *self._shape)

    def room_at(self, at: int) -> Three:
        cpu, memory, disk = self.room
        return (int(cpu[at]), int(memory[at]), int(disk[at]))

    def fits_at(self, at: int, need: Three) -> bool:
        """Whether a node has room for one, less what it keeps free."""
        return all(part <= room for part, room in zip(need, self.room_at(at), strict=True))

    def before_fit(self, ask: Ask) -> Column | None:
        """Noise, useless features and missing blobs; None where all nodes are alike. Not to be changed."""
        if ask.features not in self._before:
            self._before[ask.features] = self._quiet(ask.features)
        column = self._before[ask.features]
        if not self.facts.images:
            return column
        digests = ask.version.process_digests()
        without = [0 if digests <= self.facts.images.get(node.id, frozenset()) else _BLOBS for node in self.nodes]
        blobs: Column = np.array(without, np.int64)
        return blobs if column is None else column + blobs

    def _quiet(self, features: tuple[str, ...]) -> Column | None:
        noise = [noise_level(self.facts.noise.get(node.id, 0)) * _NOISE for node in self.nodes]
        plain = self.settings.fit == "emptiest"
        useless = [0 if plain else useless_features(node, features) * _USELESS for node in self.nodes]
        column: Column = np.array(noise, np.int64) + np.array(useless, np.int64)
        return column if column.any() else None

    def _scored(self, at: Column, features: tuple[str, ...], need: Three) -> Column:
        cpu, memory, disk = free = (self.room[0][at], self.room[1][at], self.room[2][at])
        fits = (cpu >= need[0]) & (memory >= need[1]) & (disk >= need[2]) & self.may_run(features)[at]
        return np.where(fits, self._fit(at, free, need), FULL)

    def _score_one(self, at: int, features: tuple[str, ...], need: Three) -> int:
        """As `_scored`, of one node; the arithmetic of Python's numbers is quicker for one."""
        cpu, memory, disk = free = self.room_at(at)
        if cpu < need[0] or memory < need[1] or disk < need[2] or not self.may_list(features)[at]:
            return FULL
        if self.settings.fit == "emptiest":
            return emptiest(memory)
        if self.settings.fit == "aligned":
            return aligned(free, proportion(need, self.largest), self.largest, 1)
        return fullest(free, self.largest) if self.used[at] > 0 else unused(free, self.largest)

    def _fit(self, at: Column, free: tuple[Column, Column, Column], need: Three) -> Column:
        if self.settings.fit == "emptiest":
            return FREE_MAX - np.minimum(free[1], FREE_MAX)
        if self.settings.fit == "aligned":
            return aligned(free, proportion(need, self.largest), self.largest, np.ones(len(at), np.int64))
        return np.where(self.used[at] > 0, fullest(free, self.largest), unused(free, self.largest))


class Choice:
    """The nodes for one ask, best first. `mine`: where instances of its app are already, one entry for each."""

    def __init__(self, columns: Columns, ask: Ask, mine: Sequence[int]) -> None:
        self.need = amounts_of(ask.version.limits.reserve)
        self.seed = stable_hash(ask.account, ask.app)
        self._columns = columns
        self._features = ask.features
        self._settings = settings = columns.settings
        self._limited = settings.per_node_max is not None or settings.per_rack_max is not None
        self._lead: Column | None = columns.before_fit(ask)
        self._lead_is_mine = False
        self._on_node: Column | None = None
        self._in_rack: Column | None = None
        self._tie_order: Column | None = None
        self._tie_rank: Column | None = None
        if self._limited:
            self._on_node, self._in_rack = np.zeros_like(columns.used), np.zeros_like(columns.used)
        if mine:
            self._spread(np.array(mine, np.int64))

    def next(self, missing: int) -> Column:
        """The next nodes to take, in order, at most `missing`; a node may stand there several times. Empty: none has room.

        Only as many as are sure: what each takes does not change the order of those behind it. Tell `took`.
        """
        score = self._columns.scores(self._features, self.need)
        if self._limited:
            score = np.where(self.able(), score, FULL)
        group = self._foremost(score)
        if len(group) == 0:
            return group
        settings, by_rack = self._settings, self._settings.spread_racks and self._columns.labelled
        if missing > 1 and (settings.per_rack_max is None or settings.spread_racks):
            if by_rack and missing > FEW:
                return self._first_of_racks(group, score, missing)
            if not by_rack and (settings.spread_nodes or settings.spread_racks):
                return self._first(group, score, missing)
            if not by_rack and settings.fit == "fullest":
                best = self._best(group, score)
                return np.full(self._times(best, missing), best, np.int64)
        return np.array([self._best(group, score)], np.int64)

    def took(self, at: Column) -> None:
        self._spread(at)

    def able(self) -> Mask:
        """Where one more may be, had the node room."""
        mask = self._columns.may_run(self._features)
        if self._on_node is not None and self._settings.per_node_max is not None:
            mask = mask & (self._on_node < self._settings.per_node_max)
        if self._in_rack is not None and self._settings.per_rack_max is not None:
            mask = mask & (self._in_rack[self._columns.rack] < self._settings.per_rack_max)
        return mask

    def ties(self, at: Column) -> NDArray[np.uint64]:
        return ties(self.seed, self._columns.hashes[at])

    def _foremost(self, score: Column) -> Column:
        """The nodes with room that come first before the fit is looked at; or, where all are alike so far, all."""
        group = np.flatnonzero(score < FULL)
        if self._lead is None or len(group) == 0:
            return group
        lead = self._lead[group]
        return group[lead == lead.min()]

    def _best(self, group: Column, score: Column) -> int:
        fit = score[group]
        group = group[fit == fit.min()]
        return int(group[0]) if len(group) == 1 else int(group[np.argmin(self.ties(group))])

    def _first(self, group: Column, score: Column, count: int) -> Column:
        """The `count` best of a group, in order; no sort of what is not wanted."""
        fit = score[group]
        if count < len(group):
            bound = np.partition(fit, count - 1)[count - 1]
            same = group[fit == bound]
            group = group[fit < bound]
            wanted = count - len(group)
            if wanted < len(same):
                broken = self.ties(same)
                same = same[broken <= np.partition(broken, wanted - 1)[wanted - 1]]
            group = np.concatenate((group, same))
        order = np.lexsort((group, self.ties(group), score[group]))
        return group[order[:count]]

    def _first_of_racks(self, group: Column, score: Column, count: int) -> Column:
        """The best of each rack, in order: each takes its rack out of the group."""
        columns = self._columns
        if self._tie_order is None or self._tie_rank is None:
            everything = np.arange(len(columns.nodes))
            self._tie_order = np.argsort(self.ties(everything), kind="stable")
            self._tie_rank = np.empty_like(self._tie_order)
            self._tie_rank[self._tie_order] = everything
        keys = np.full(len(columns.nodes), FULL, np.int64)
        keys[group] = score[group] << _TIE_BITS | self._tie_rank[group]
        best = np.minimum.reduceat(keys[columns.by_rack], columns.rack_starts)
        best = np.sort(best[best < FULL])[:count]
        return self._tie_order[best & (NODES_MAX - 1)]

    def _times(self, at: int, missing: int) -> int:
        """How many fit on a node that stays the best until it is full."""
        room = self._columns.room_at(at)
        times = min([missing, *(have // part for have, part in zip(room, self.need, strict=True) if part > 0)])
        if self._on_node is not None and self._settings.per_node_max is not None:
            times = min(times, self._settings.per_node_max - int(self._on_node[at]))
        return max(1, times)

    def _spread(self, at: Column) -> None:
        """Count instances of the app."""
        columns, settings = self._columns, self._settings
        racks = columns.rack[at]
        if self._on_node is not None and self._in_rack is not None:
            np.add.at(self._on_node, at, 1)
            np.add.at(self._in_rack, racks, 1)
        if not settings.spread_nodes and not settings.spread_racks:
            return
        if self._lead is None or not self._lead_is_mine:
            self._lead = np.zeros(len(columns.nodes), np.int64) if self._lead is None else self._lead.copy()
            self._lead_is_mine = True
        if settings.spread_nodes:
            np.add.at(self._lead, at, _NODE)
        if settings.spread_racks and not columns.labelled:
            np.add.at(self._lead, at, _RACK)
        elif settings.spread_racks:
            counts = np.bincount(racks, minlength=len(columns.rack_starts))
            if len(at) == 1:
                self._lead[columns.rack == racks[0]] += _RACK
            else:
                self._lead += counts[columns.rack] * _RACK


def _columns(rows: list[Three]) -> tuple[Column, Column, Column]:
    table = np.array(rows, np.int64).reshape(-1, 3)
    return (table[:, 0].copy(), table[:, 1].copy(), table[:, 2].copy())


def _less(whole: Three, part: Three) -> Three:
    return (whole[0] - part[0], whole[1] - part[1], whole[2] - part[2])
