"""Why something was not packed: a reason for every node, or in a large site for every kind of node.

Both packers say what each node has left; what follows from it is said here once.
"""

from collections.abc import Sequence
from typing import NamedTuple

from msgspec.structs import replace

from skerry.core.packing.types import Ask, PackingSettings
from skerry.core.policy.capacity import has_features, shortage
from skerry.core.policy.state import node_state_rejection
from skerry.core.types.place import Node
from skerry.core.types.plan import Reason, Rejection
from skerry.core.types.resources import Resources
from skerry.core.types.slices import Refused

EACH_NODE_MAX = 64
"""In a larger site nodes with the same reason are counted, and the one with the most room stands for all: nobody reads
thousands of lines, and each would travel to control with every report."""

Three = tuple[int, int, int]


class NodeRoom(NamedTuple):
    """A node after all is packed. `room`: free for new instances (see `PackingSettings.keep_free_percent`; may be negative).
    `above`: held there by apps of a higher priority than the ask's. `mine`, `mine_in_rack`: instances of the ask's app."""

    node: Node
    room: Three
    above: Three
    mine: int
    mine_in_rack: int


def refusal(ask: Ask, missing: int, rooms: Sequence[NodeRoom], settings: PackingSettings) -> Refused:
    """`rooms`: all nodes of the site, by id."""
    return Refused(
        account=ask.account,
        app=ask.app,
        version=ask.version.id,
        plan_generation=ask.plan_generation,
        missing=missing,
        rejections=rejections(ask, rooms, settings),
    )


def rejections(ask: Ask, rooms: Sequence[NodeRoom], settings: PackingSettings) -> tuple[Rejection, ...]:
    """The reason for each node, by node; of more than `EACH_NODE_MAX` nodes, one for each reason."""
    if len(rooms) <= EACH_NODE_MAX:
        return tuple(node_rejection(ask, room, settings) for room in rooms)
    kinds: dict[Reason, list[tuple[NodeRoom, Rejection]]] = {}
    for room in rooms:
        found = node_rejection(ask, room, settings)
        kinds.setdefault(found.reason, []).append((room, found))
    return tuple(sorted((_standing_for(kind) for kind in kinds.values()), key=lambda rejection: rejection.place))


def _standing_for(kind: list[tuple[NodeRoom, Rejection]]) -> Rejection:
    _, best = min(kind, key=lambda entry: (-entry[0].room[1], -entry[0].room[0], entry[0].node.id))
    if len(kind) == 1:
        return best
    others = f"so it is on {len(kind)} nodes, this one has the most room"
    return replace(best, detail=f"{best.detail}; {others}" if best.detail else others)


def node_rejection(ask: Ask, given: NodeRoom, settings: PackingSettings) -> Rejection:
    """The first of the reasons that holds."""
    node, reserve = given.node, ask.version.limits.reserve
    rejection = node_state_rejection(node)
    if rejection is not None:
        return rejection
    if not has_features(node, ask.features):
        return Rejection(place=node.id, reason=Reason.MISSING_FEATURE, detail=f"needs {', '.join(ask.features)}")
    if not reserve.fits_in(node.capacity):
        return Rejection(place=node.id, reason=Reason.TOO_LARGE, detail=shortage(reserve, node.capacity))
    apart = _apart(given, settings)
    if apart:
        return Rejection(place=node.id, reason=Reason.APART, detail=apart)
    detail = shortage(reserve, _amount(given.room)) or "no room"
    if settings.keep_free_percent:
        detail += f" ({settings.keep_free_percent} % of the node are kept free)"
    if any(given.above) and reserve.fits_in(_amount(_sum(given.room, given.above))):
        held = _amount(given.above)
        detail += f"; apps of a higher priority hold {held.cpu_millicores} millicores and {held.memory_mib} MiB"
        return Rejection(place=node.id, reason=Reason.OUTRANKED, detail=detail)
    return Rejection(place=node.id, reason=Reason.NO_CAPACITY, detail=detail)


def _apart(given: NodeRoom, settings: PackingSettings) -> str:
    at_node, at_rack = settings.per_node_max, settings.per_rack_max
    if at_node is not None and given.mine >= at_node:
        return f"{given.mine} of the app are on the node, at most {at_node} may be"
    if at_rack is not None and given.mine_in_rack >= at_rack:
        return f"{given.mine_in_rack} of the app are in {given.node.rack or 'the rack'}, at most {at_rack} may be"
    return ""


def _sum(one: Three, other: Three) -> Three:
    return (one[0] + other[0], one[1] + other[1], one[2] + other[2])


def _amount(three: Three) -> Resources:
    return Resources(cpu_millicores=max(0, three[0]), memory_mib=max(0, three[1]), disk_mib=max(0, three[2]))
