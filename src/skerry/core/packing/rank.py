"""The numbers by which nodes are ranked. Whole numbers, so that the readable packer and the fast one agree exactly.

Functions whose arguments are `Amounts` take a node's three amounts or three columns of all nodes.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from skerry.core.packing.types import Ask, Fit, Held, PackingSettings
from skerry.core.types.ids import NodeId
from skerry.core.types.place import Node
from skerry.core.types.resources import Resources
from skerry.kit.hashing import stable_hash

NOISE_MAX = 15
USELESS_MAX = 63
"""More features without use than this count as so many."""

FREE_MAX = 2**39
"""Free memory above this (in MiB) counts as so much: far beyond machines."""

FIT_BITS = 41
"""Every fit is below 2**FIT_BITS."""

SHORTLIST = 16
"""Nodes of which the exact victims are weighed when an instance has to make room; the nearest to fitting."""

Column = NDArray[np.int64]
Number = TypeVar("Number", int, Column)
Amounts = tuple[Number, Number, Number]
"""cpu in millicores, memory in MiB, disk in MiB."""

Three = tuple[int, int, int]

_ONE = 2**32  # the largest node's amount of a resource, when amounts of different resources are added
_ASKED, _FREE = 2**12, 2**15  # the same, when they are multiplied: squares of sums of products stay below 2**63
_UNUSED = 2**40  # above every sum of free amounts
_MIX = 0x9E3779B97F4A7C15  # 2**64 divided by the golden ratio
_WORD = 2**64 - 1


def amounts_of(resources: Resources) -> Three:
    return (resources.cpu_millicores, resources.memory_mib, resources.disk_mib)


def units(capacities: Iterable[Three]) -> Three:
    """The largest amount of each resource in any node, at least 1."""
    cpu, memory, disk = 1, 1, 1
    for one in capacities:
        cpu, memory, disk = max(cpu, one[0]), max(memory, one[1]), max(disk, one[2])
    return cpu, memory, disk


def size_order(ask: Ask, fit: Fit, largest: Three) -> tuple[int | str, ...]:
    """Who is kept and placed first: a higher priority; then large ones, since small ones still fit into what those leave."""
    cpu, memory, disk = need = amounts_of(ask.version.limits.reserve)
    if fit == "aligned":
        return (-ask.priority, -max(_ONE * part // whole for part, whole in zip(need, largest, strict=True)), *ask.key)
    return (-ask.priority, -memory, -cpu, -disk, *ask.key)


def emptiest(memory: int) -> int:
    """`memory`: free MiB of one node."""
    return FREE_MAX - min(max(memory, 0), FREE_MAX)


def fullest(free: Amounts[Number], largest: Three) -> Number:
    """The sum of what is free, for nodes that are in use. Negative amounts (kept free, but used already) count as they are."""
    return free[0] * (_ONE // largest[0]) + free[1] * (_ONE // largest[1]) + free[2] * (_ONE // largest[2])


def unused(free: Amounts[Number], largest: Three) -> Number:
    """As `fullest`, for nodes that are not in use: after all that are, the largest first."""
    return _UNUSED - fullest(free, largest)


def proportion(need: Three, largest: Three) -> Three:
    """What is asked, in units of the largest node, scaled so that the greatest part is 2**12."""
    cpu, memory, disk = (part * _ONE // whole for part, whole in zip(need, largest, strict=True))
    top = max(cpu, memory, disk, 1)
    return (cpu * _ASKED // top, memory * _ASKED // top, disk * _ASKED // top)


def aligned(free: Amounts[Number], asked: Three, largest: Three, floor: Number) -> Number:
    """Less for a smaller angle between what is free and what is asked (a `proportion`); `floor` is 1, or a column of ones.

    The rule of alignment of Grandl et al., Multi-resource packing for cluster schedulers (SIGCOMM 2014), with the cosine in
    place of the product, so that large nodes are not preferred for their size. Whole numbers: dot² / |free|² < 2**26.
    """
    cpu, memory, disk = free[0] * _FREE // largest[0], free[1] * _FREE // largest[1], free[2] * _FREE // largest[2]
    dot = cpu * asked[0] + memory * asked[1] + disk * asked[2]
    return FREE_MAX - dot * dot // (cpu * cpu + memory * memory + disk * disk + floor)


@lru_cache(maxsize=65_536)
def node_hash(node: str) -> int:
    return stable_hash(node)


def tie(seed: int, node: int) -> int:
    """What breaks ties between nodes, differently for each app: a multiplicative mix of both hashes (64 bits)."""
    mixed = ((seed ^ node) * _MIX) & _WORD
    return ((mixed ^ (mixed >> 32)) * _MIX) & _WORD


def ties(seed: int, nodes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """`tie` for many nodes."""
    mix = np.uint64(_MIX)
    mixed = (np.uint64(seed) ^ nodes) * mix
    return (mixed ^ (mixed >> np.uint64(32))) * mix


def useless_features(node: Node, features: Sequence[str]) -> int:
    """How many features the node has that are not asked."""
    return min(USELESS_MAX, len(set(node.features).difference(features)))


def noise_level(noise: int) -> int:
    return min(NOISE_MAX, max(0, noise))


def lack(need: Three, room: Amounts[Number]) -> tuple[Number, Number, Number]:
    """How much of each needed amount is missing, in 1/1024 of the need; not above 0: nothing."""
    return (
        (need[0] - room[0]) * 1024 // max(1, need[0]),
        (need[1] - room[1]) * 1024 // max(1, need[1]),
        (need[2] - room[2]) * 1024 // max(1, need[2]),
    )


def rack_of(node: Node) -> str:
    """A node without a rack is a rack of its own. (No rack's name begins with a slash.)"""
    return node.rack or f"/{node.id}"


def kept_free(node: Node, settings: PackingSettings) -> Three:
    """What of a node is not for new instances, rounded up."""
    percent = settings.keep_free_percent
    cpu, memory, disk = amounts_of(node.capacity)
    return (-(-cpu * percent // 100), -(-memory * percent // 100), -(-disk * percent // 100))


def most_spread(instances: Sequence[Held]) -> list[Held]:
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
