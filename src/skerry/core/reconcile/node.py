"""A node: what its slice wants against what it sees."""

from skerry.core.types.ids import InstanceId
from skerry.core.types.slices import NodeInstance, NodeSlice, ObservedInstance
from skerry.kit.record import Record


class NodeActions(Record):
    """Both in instance id order. Safe to carry out twice."""

    start: tuple[NodeInstance, ...]
    stop: tuple[InstanceId, ...]


def reconcile_node(slice_: NodeSlice, observed: tuple[ObservedInstance, ...]) -> NodeActions:
    """Start what is wanted and not there, stop what is there and not wanted.

    One that is stopping although wanted is left alone: it is started by the next call, when it is gone.
    """
    wanted = {instance.id: instance for instance in slice_.instances}
    seen = {instance.id: instance for instance in observed}
    return NodeActions(
        start=tuple(wanted[name] for name in sorted(wanted) if name not in seen),
        stop=tuple(name for name in sorted(seen) if name not in wanted and seen[name].state != "stopping"),
    )
