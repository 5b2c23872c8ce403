"""What is handed down (slices, by generation) and what is reported up (observed)."""

from typing import Literal

from skerry.core.types.app import PRIORITY_NEUTRAL, Version
from skerry.core.types.demand import SiteTraffic
from skerry.core.types.ids import AccountId, AppName, InstanceId, NodeId, SiteId, VersionId
from skerry.core.types.maintenance import NodeTask, NodeTaskReport, TaskReport
from skerry.core.types.place import Node
from skerry.core.types.plan import Rejection
from skerry.core.types.strain import Strain
from skerry.kit.record import Record


class SliceVersion(Record):
    """`count` instances of `version` in this site, taking `weight` of the app's traffic (0..256)."""

    version: Version
    count: int
    weight: int


class SliceApp(Record):
    """One app as a site has to run and route it.

    `hosts` are the names it answers at, `public_port` is where it does if it speaks TCP instead. `fallbacks` are other sites
    that run it, nearest first: where this site sends a request when it has no healthy instance of its own. An app that only
    other sites run is here too, with no versions.
    """

    account: AccountId
    account_name: str
    app: AppName
    plan_generation: int
    versions: tuple[SliceVersion, ...]
    hosts: tuple[str, ...]
    fallbacks: tuple[SiteId, ...] = ()
    features: tuple[str, ...] = ()  # only nodes that have all of them may run it
    priority: int = PRIORITY_NEUTRAL  # where room is short, a lower one gives way
    sticky: bool = False  # a user stays with the instance that answered first
    public_port: int | None = None


class Peer(Record):
    """Another site's ingress, as this site reaches it."""

    site: SiteId
    address: str  # host:port of its peer frontend
    tcp_address: str = ""  # host:port at which it takes other sites' TCP connections; empty: it takes none


class SiteSlice(Record):
    """Everything a site needs to serve, cut off from control or not. Generations only grow."""

    site: SiteId
    generation: int
    state: Literal["up", "draining"] = "up"
    apps: tuple[SliceApp, ...] = ()
    peers: tuple[Peer, ...] = ()
    draining_nodes: tuple[NodeId, ...] = ()
    tasks: tuple[NodeTask, ...] = ()  # for nodes that are empty


class NodeInstance(Record):
    """One instance that a node has to run."""

    id: InstanceId
    version: Version
    priority: int = PRIORITY_NEUTRAL  # of its app: who gives way first where the node is short


class NodeSlice(Record):
    """Everything a node has to run. A node refuses a generation older than the one it holds."""

    node: NodeId
    generation: int
    instances: tuple[NodeInstance, ...] = ()
    task: NodeTask | None = None  # to be carried out when nothing runs there


InstanceState = Literal["starting", "running", "asleep", "paused", "dead", "backoff", "failed", "done", "stopping"]
"""starting: not ready yet. running: awake. asleep: process alive, memory squeezed. paused: none of its instructions run, by
somebody's word. dead: no process, a request starts it. backoff: crashed, or its files cannot be had;
waits to try again. failed: will not be restarted by
itself. done: a program that ended as it should, and that its restart policy does not start again."""

SERVING_STATES: frozenset[InstanceState] = frozenset(("running", "asleep", "dead"))
"""In these a request sent to the instance's address is answered (after a wake, if need be)."""

GOOD_STATES: frozenset[InstanceState] = frozenset((*SERVING_STATES, "done"))
"""It does, or did, what it is for: what a rollout waits for."""


class ObservedInstance(Record):
    """What an agent sees of one instance.

    `address` is host:port for ingress, set once it may serve; a program without a port never has one.
    """

    id: InstanceId
    account: AccountId
    app: AppName
    version: VersionId
    state: InstanceState
    since_ms: int
    pid: int | None = None
    address: str | None = None
    restarts: int = 0
    memory_bytes: int = 0
    detail: str = ""  # the last error, for people
    strains: tuple[Strain, ...] = ()


class NodeReport(Record):
    """What a node sees of itself. `epoch` names this run of the agent; `sequence` grows inside it."""

    node: Node
    epoch: str
    sequence: int
    slice_generation: int
    instances: tuple[ObservedInstance, ...] = ()
    task: TaskReport | None = None  # of the latest one


class Refused(Record):
    """What a site could not pack of one app, with the reason per node."""

    account: AccountId
    app: AppName
    version: VersionId
    plan_generation: int
    missing: int
    rejections: tuple[Rejection, ...]


class SiteInstance(Record):
    """An observed instance and the node it is on."""

    node: NodeId
    instance: ObservedInstance


class SilentNode(Record):
    """A node that does not answer its site now. `phi` as in `core.machines.failure`."""

    node: NodeId
    lost: bool
    phi: float
    silent_ms: int


class Sighting(Record):
    """Another site that this one looks at (`core.reconcile.observers`), and whether it answers."""

    site: SiteId
    answers: bool


class SiteReport(Record):
    """What a site sees. `slice_generation` is the one it executes; `traffic` None: its ingress could not be asked."""

    site: SiteId
    epoch: str
    sequence: int
    slice_generation: int
    nodes: tuple[Node, ...] = ()
    instances: tuple[SiteInstance, ...] = ()
    refused: tuple[Refused, ...] = ()
    silent: tuple[SilentNode, ...] = ()
    tasks: tuple[NodeTaskReport, ...] = ()
    pid: int = 0
    ingress_pid: int = 0
    problems: tuple[str, ...] = ()  # what its ingress cannot do, and why
    sightings: tuple[Sighting, ...] = ()
    traffic: SiteTraffic | None = None
