"""Whether nodes have what instances need, in numbers a person can read."""

from collections.abc import Iterable, Sequence

from skerry.core.types.place import Node, Site
from skerry.core.types.plan import Reason, Rejection
from skerry.core.types.resources import Resources


def nodes_up(nodes: Iterable[Node]) -> tuple[Node, ...]:
    """Those that take instances, in id order."""
    return tuple(sorted((node for node in nodes if node.state == "up"), key=lambda node: node.id))


def has_features(node: Node, features: Sequence[str]) -> bool:
    return not features or set(features) <= set(node.features)


def total_capacity(nodes: Iterable[Node]) -> Resources:
    """The sum over nodes."""
    amounts = [node.capacity for node in nodes]
    return Resources(
        cpu_millicores=sum(amount.cpu_millicores for amount in amounts),
        memory_mib=sum(amount.memory_mib for amount in amounts),
        disk_mib=sum(amount.disk_mib for amount in amounts),
    )


def site_free(nodes: Iterable[Node], others: Resources) -> Resources:
    """What the nodes that are up have, less what other apps hold."""
    return total_capacity(nodes_up(nodes)).less(others)


def shortage(need: Resources, room: Resources) -> str:
    """The dimensions in which `need` exceeds `room`: "needs 64 MiB memory, 10 MiB free"."""
    parts = [
        f"needs {wanted} {unit}, {have} free"
        for wanted, have, unit in (
            (need.cpu_millicores, room.cpu_millicores, "millicores CPU"),
            (need.memory_mib, room.memory_mib, "MiB memory"),
            (need.disk_mib, room.disk_mib, "MiB disk"),
        )
        if wanted > have
    ]
    return "; ".join(parts)


def nodes_rejection(site: Site, nodes: Sequence[Node], features: Sequence[str]) -> Rejection | None:
    """No node is up, or none of those has every required feature. `nodes`: all of the site."""
    up = nodes_up(nodes)
    if not up:
        detail = f"{len(nodes)} nodes, none up" if nodes else "no node has reported"
        return Rejection(place=site.id, reason=Reason.NO_NODES, detail=detail)
    if not any(has_features(node, features) for node in up):
        offered = sorted({feature for node in up for feature in node.features})
        detail = f"needs {', '.join(features)}; offered: {', '.join(offered) or 'none'}"
        return Rejection(place=site.id, reason=Reason.MISSING_FEATURE, detail=detail)
    return None


def size_rejection(site: Site, nodes: Sequence[Node], reserve: Resources) -> Rejection | None:
    """One instance is larger than each of `nodes` (those that are up and have the features), empty."""
    if any(reserve.fits_in(node.capacity) for node in nodes):
        return None
    largest = max(nodes, key=lambda node: (node.capacity.memory_mib, node.capacity.cpu_millicores, node.id))
    detail = f"largest node {largest.id}: {shortage(reserve, largest.capacity)}"
    return Rejection(place=site.id, reason=Reason.TOO_LARGE, detail=detail)
