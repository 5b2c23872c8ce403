"""A limit that an instance has come to, and what that does to it."""

from typing import Literal

from skerry.core.types.ids import InstanceId, NodeId
from skerry.kit.record import Record

Limit = Literal["memory", "processes", "disk", "descriptors", "log", "cpu"]


class Strain(Record):
    """Told from when it was first seen until it has not been seen for a while. `text`: for people."""

    limit: Limit
    since_ms: int
    text: str


class StrainOf(Record):
    """And whose it is."""

    instance: InstanceId
    node: NodeId
    strain: Strain
