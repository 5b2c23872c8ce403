"""What the site controller's decision takes and gives."""

from collections.abc import Mapping

from skerry.core.packing.types import DEFAULTS, Held, PackingSettings, Preempted
from skerry.core.types.app import Version
from skerry.core.types.ids import InstanceId, NodeId
from skerry.core.types.place import Node
from skerry.core.types.routes import RouteTable
from skerry.core.types.slices import NodeInstance, NodeReport, Refused, SiteSlice
from skerry.kit.record import Record

DRAIN_MIN_MS = 1000
"""An instance stays this long after its weight became 0: requests on their way still reach it."""

DRAIN_MAX_MS = 30_000
"""After this long it goes, whatever is still open (a WebSocket would keep it for ever)."""


class NodeHeard(Record):
    """The latest report of a node and when (site's clock) it came."""

    report: NodeReport
    heard_ms: int


class Retiring(Record):
    """An instance no longer wanted. `drain_since_ms` None: it still takes requests until others replace it.

    `gave_way`: it had to make room for a higher priority; it drains also where nothing replaces it.
    """

    held: Held
    since_ms: int
    drain_since_ms: int | None = None
    gave_way: bool = False


class Serving(Record):
    """An instance that was last seen able to serve, where and since when; "" for a program that serves nobody."""

    instance: InstanceId
    address: str
    since_ms: int = 0


class SiteMemory(Record):
    """All that the site controller must remember between decisions; written to disk it survives a restart.

    It holds versions whole, with their secrets: keep it as secret as the slice. `nodes` is how each node was last
    seen, so that a restarted controller neither moves nor unroutes what it has not heard of yet.
    """

    held: tuple[Held, ...] = ()
    retiring: tuple[Retiring, ...] = ()
    versions: tuple[Version, ...] = ()  # of all held and retiring, by id
    nodes: tuple[Node, ...] = ()
    serving: tuple[Serving, ...] = ()


class SiteInput(Record):
    """The snapshot that a site decides on.

    `lost`: nodes to be given up (suspected ones are not). A node never heard of yet and not lost counts as it was.
    `cut_off`: nodes whose agent is away for long while their instances serve: these stay until they are replaced elsewhere.
    `in_flight`: requests now in each instance, by ingress; what is absent has none. None: unknown, so nobody is done.
    """

    slice_: SiteSlice
    memory: SiteMemory
    reports: tuple[NodeHeard, ...]
    lost: frozenset[NodeId]
    in_flight: Mapping[InstanceId, int] | None
    now_ms: int
    packing: PackingSettings = DEFAULTS
    cut_off: frozenset[NodeId] = frozenset()


class NodeContents(Record):
    """What a node's slice has to hold; the generation is given when it differs from the last one handed out."""

    node: NodeId
    instances: tuple[NodeInstance, ...]


class SiteDecision(Record):
    """`preempted` gave way to a higher priority in this decision; they serve on until their app is served elsewhere, or drain.

    Apply `routes` first, then hand out `slices`: what leaves a slice has left the routes before.

    `nodes` are as used (lost and draining marked), `reserved` filled in. `wake_ms`: decide again then, if nothing else happens.
    """

    memory: SiteMemory
    slices: tuple[NodeContents, ...]  # one per known node, lost ones included: they stop leftovers when they return
    routes: RouteTable
    refused: tuple[Refused, ...]
    nodes: tuple[Node, ...]
    wake_ms: int | None = None
    preempted: tuple[Preempted, ...] = ()
