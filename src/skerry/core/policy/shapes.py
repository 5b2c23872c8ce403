"""A site's nodes as the few shapes that they have, and what fits them: three thousand nodes cost what three do."""

from collections import Counter
from collections.abc import Iterable, Sequence

from skerry.core.policy.capacity import nodes_up, shortage
from skerry.core.types.place import Node
from skerry.core.types.resources import Resources
from skerry.kit.record import Record


class NodeKind(Record):
    """`count` nodes that are up, alike in what they have."""

    capacity: Resources
    features: tuple[str, ...]
    count: int

    def has(self, features: Iterable[str]) -> bool:
        return set(features) <= set(self.features)


class Shapes(Record):
    """The nodes of a site that are up: `count` of them in all."""

    total: Resources = Resources()
    kinds: tuple[NodeKind, ...] = ()
    count: int = 0


def shapes_of(nodes: Iterable[Node]) -> Shapes:
    counted = Counter((node.capacity, tuple(sorted(node.features))) for node in nodes_up(nodes))
    total = Resources()
    for (capacity, _), count in counted.items():
        total += capacity.times(count)
    kinds = tuple(NodeKind(capacity=capacity, features=names, count=count) for (capacity, names), count in counted.items())
    return Shapes(total=total, kinds=kinds, count=counted.total())


class Room:
    """What a site still offers one app: the ledger's sum, and each node's shape. Local to one decision, never shared.

    The ledger knows sums only, so other apps are taken off the sum; the app's own instances are also
    put on single nodes, the emptiest first, so that what cannot fit side by side is not promised.
    """

    def __init__(self, shapes: Shapes, features: tuple[str, ...], others: Resources) -> None:
        self.free = shapes.total.less(others)
        self._nodes: Counter[tuple[Resources, tuple[str, ...]]] = Counter()
        for kind in shapes.kinds:
            if not features or kind.has(features):
                self._nodes[kind.capacity, kind.features] += kind.count

    def fits(self, reserve: Resources, needs: Sequence[str] = ()) -> bool:
        """Whether one more does, on a node with all that it needs."""
        return reserve.fits_in(self.free) and bool(self._fitting(reserve, needs))

    def take(self, reserve: Resources, needs: Sequence[str] = ()) -> bool:
        """Take one instance's reserve; False (and nothing taken) when it does not fit."""
        fitting = self._fitting(reserve, needs)
        if not fitting or not reserve.fits_in(self.free):
            return False
        node, offered = max(fitting, key=lambda kind: (kind[0].memory_mib, kind[0].cpu_millicores, kind[0].disk_mib))
        self._nodes[node, offered] -= 1
        if not self._nodes[node, offered]:
            del self._nodes[node, offered]
        self._nodes[node.less(reserve), offered] += 1
        self.free = self.free.less(reserve)
        return True

    def _fitting(self, reserve: Resources, needs: Sequence[str]) -> list[tuple[Resources, tuple[str, ...]]]:
        return [kind for kind in self._nodes if reserve.fits_in(kind[0]) and (not needs or set(needs) <= set(kind[1]))]

    def why_not(self, reserve: Resources) -> str:
        """The numbers behind a False of `take`."""
        return shortage(reserve, self.free) or "what is free is spread over nodes too small for one more"


def most_of(shapes: Shapes, features: tuple[str, ...], others: Resources, reserve: Resources) -> int:
    """How many instances like this an otherwise empty `Room` takes."""
    on_nodes = 0
    for kind in shapes.kinds:  # no generator: this is asked of every site in every decision
        if not features or kind.has(features):
            on_nodes += _times(kind.capacity, _NONE, reserve) * kind.count
    return min(on_nodes, _times(shapes.total, others, reserve))


MANY = 1_000_000  # instances of something that reserves nothing


_NONE = Resources()


def _times(room: Resources, used: Resources, reserve: Resources) -> int:
    """How many fit one after the other beside what is used."""
    most = (room.cpu_millicores - used.cpu_millicores) // reserve.cpu_millicores if reserve.cpu_millicores else MANY
    if reserve.memory_mib:
        fits = (room.memory_mib - used.memory_mib) // reserve.memory_mib
        most = fits if fits < most else most  # `min` and `max` would take half the time of this
    if reserve.disk_mib:
        fits = (room.disk_mib - used.disk_mib) // reserve.disk_mib
        most = fits if fits < most else most
    return most if most > 0 else 0
