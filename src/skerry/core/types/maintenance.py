"""Fleet maintenance: what is to be done on every node, how far it is, and what nodes say of it."""

from typing import Literal

from skerry.core.types.ids import NodeId, SiteId
from skerry.kit.record import Record

REBOOT = "reboot"
"""The task that every platform of `skerry up` has: the node's agent and all that it runs end, and start again."""

WorkPhase = Literal["waiting", "draining", "doing", "returning", "done", "failed", "skipped"]
"""draining: it takes nothing new and empties. doing: the task runs. returning: the task is done, it has yet to be well for a
while. failed: it stays out of service until an operator says resume or abort. skipped: it was not touched, or is given back."""

JobState = Literal["running", "paused", "stopped", "aborting", "aborted", "done"]
"""paused: by an operator; what is under way is finished. stopped: by itself, as a node failed. aborting: as paused, for good."""

OUT_OF_SERVICE: frozenset[WorkPhase] = frozenset(("draining", "doing", "returning", "failed"))
UNDER_WAY: frozenset[WorkPhase] = frozenset(("draining", "doing", "returning"))


class NodeWork(Record):
    """One node of a maintenance. `since_ms` of the phase; `well_ms`: since when it has been well again.

    `attempt` grows when a failed one is tried again.
    """

    node: NodeId
    site: SiteId
    phase: WorkPhase = "waiting"
    since_ms: int = 0
    well_ms: int | None = None
    attempt: int = 1
    detail: str = ""


class Maintenance(Record):
    """One run over the fleet, in the order of `nodes`; those of `canary` go first. `task` is a name that nodes' own
    configuration gives a meaning. `detail`: why it stopped, or what it waits for.
    """

    id: str
    task: str
    percent: int  # of a city's nodes, and of all, that may be out of service at a time; one may always
    created_ms: int
    author: str
    canary: SiteId
    nodes: tuple[NodeWork, ...]
    state: JobState = "running"
    changed_ms: int = 0
    detail: str = ""


class NodeTask(Record):
    """What a node is told to do, once. Equal tokens are the same order."""

    node: NodeId
    task: str
    token: str


class TaskReport(Record):
    """What a node says of the task that it was given last."""

    token: str
    state: Literal["running", "done", "failed"]
    detail: str = ""


class NodeTaskReport(Record):
    node: NodeId
    report: TaskReport
