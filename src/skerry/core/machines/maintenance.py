"""Fleet maintenance as a machine without I/O: node by node and city by city. Time is a value.

waiting ─► draining ─► doing ─► returning ─► done
              │           │          │
              └───────────┴──────────┴─► failed: the run stops by itself

step    moves every node as far as the facts allow, then lets further ones begin
words   pause, resume, abort, by operators

What of the fleet is out of service follows from the record alone (`out_of_service`), so that whoever holds it knows; and each
task has a token that is the same whoever derives it, so that an order that is given twice is carried out once.
"""

from collections.abc import Mapping
from typing import final

from msgspec.structs import replace

from skerry.core.types.ids import NodeId, SiteId
from skerry.core.types.maintenance import OUT_OF_SERVICE, UNDER_WAY, Maintenance, NodeTask, NodeWork, TaskReport, WorkPhase
from skerry.core.types.place import PlaceState
from skerry.kit.hashing import stable_id
from skerry.kit.record import Record


class MaintenanceSettings(Record):
    """`drain_ms_max`: until a node has to be empty. `back_ms_max`: until its task has to be done, and then until it has to be
    well. `well_ms`: it counts as well when it has been so long.
    """

    drain_ms_max: int = 900_000
    back_ms_max: int = 900_000
    well_ms: int = 2_000


class NodeFacts(Record):
    """A node as its city reports it now. `state`: "down" also where the city itself does not answer.

    `instances`: what is there of any app, in any state.
    """

    site: SiteId
    state: PlaceState
    instances: int
    task: TaskReport | None = None


class AppFacts(Record):
    """What an app may lose, and on which nodes it serves, one entry for each instance."""

    app: str
    survive_sites: int
    min_total: int
    serves: tuple[NodeId, ...]


class Facts(Record):
    """Of all nodes of the fleet, and of all apps that serve somewhere."""

    nodes: Mapping[NodeId, NodeFacts]
    apps: tuple[AppFacts, ...] = ()


class NotNow(Exception):
    """The word makes no sense in the maintenance's state; the text says why."""


def out_of_service(job: Maintenance | None) -> dict[SiteId, tuple[NodeId, ...]]:
    """By site: the nodes that take nothing, as they are in the middle of it."""
    found: dict[SiteId, list[NodeId]] = {}
    for work in job.nodes if job else ():
        if work.phase in OUT_OF_SERVICE:
            found.setdefault(work.site, []).append(work.node)
    return {site: tuple(nodes) for site, nodes in found.items()}


def tasks(job: Maintenance | None) -> tuple[NodeTask, ...]:
    """What nodes are told now. It is told until the node is back: a node that was told twice does it once."""
    if job is None:
        return ()
    told = [work for work in job.nodes if work.phase in ("doing", "returning")]
    return tuple(NodeTask(node=work.node, task=job.task, token=token(job, work)) for work in told)


def token(job: Maintenance, work: NodeWork) -> str:
    return stable_id("maintenance", job.id, work.node, str(work.attempt), length=16)


def is_over(job: Maintenance) -> bool:
    return job.state in ("done", "aborted")


def begin(
    *,
    id_: str,
    task: str,
    percent: int,
    author: str,
    nodes: Mapping[NodeId, SiteId],
    instances: Mapping[SiteId, int],
    now_ms: int,
) -> Maintenance:
    """City by city, by name; the one that runs the least goes first, alone. `nodes` has one at least."""
    sites = sorted(set(nodes.values()))
    canary = min(sites, key=lambda site: (instances.get(site, 0), site))
    order = sorted(nodes, key=lambda node: (nodes[node] != canary, nodes[node], _number(node), node))
    work = tuple(NodeWork(node=node, site=nodes[node], since_ms=now_ms) for node in order)
    return Maintenance(
        id=id_, task=task, percent=percent, created_ms=now_ms, changed_ms=now_ms, author=author, canary=canary, nodes=work
    )


def pause(job: Maintenance, now_ms: int) -> Maintenance:
    """Nothing new begins; what is under way is finished."""
    if job.state == "paused":
        return job
    if job.state != "running":
        raise NotNow(f"it is {job.state}")
    return replace(job, state="paused", changed_ms=now_ms, detail="")


def resume(job: Maintenance, now_ms: int) -> Maintenance:
    """Go on; nodes that failed are tried again."""
    if job.state == "running":
        return job
    if job.state not in ("paused", "stopped"):
        raise NotNow(f"it is {job.state}")
    nodes = tuple(_again(work, now_ms) if work.phase == "failed" else work for work in job.nodes)
    return replace(job, state="running", nodes=nodes, changed_ms=now_ms, detail="")


def abort(job: Maintenance, now_ms: int) -> Maintenance:
    """Whatever has not begun its task is given back; tasks that run are waited for, then these nodes are given back too."""
    if is_over(job):
        raise NotNow(f"it is {job.state}")
    nodes = tuple(
        replace(work, phase="skipped", since_ms=now_ms, detail="aborted")
        if work.phase in ("waiting", "draining", "failed")
        else work
        for work in job.nodes
    )
    return replace(job, state="aborting", nodes=nodes, changed_ms=now_ms, detail="")


def step(job: Maintenance, facts: Facts, now_ms: int, settings: MaintenanceSettings) -> Maintenance:
    """Move on as far as the facts allow; the same record when nothing changes."""
    if is_over(job):
        return job
    nodes = tuple(_advance(job, work, facts.nodes.get(work.node), now_ms, settings) for work in job.nodes)
    moved = replace(job, nodes=nodes)
    failed = [work for work in moved.nodes if work.phase == "failed"]
    if failed and moved.state in ("running", "paused"):
        detail = "; ".join(f"{work.node}: {work.detail}" for work in failed)
        moved = replace(moved, state="stopped", changed_ms=now_ms, detail=detail)
    if moved.state == "running":
        moved = _Turn(moved, facts, now_ms).taken()
    return _ended(moved, facts, now_ms)


def _advance(job: Maintenance, work: NodeWork, facts: NodeFacts | None, now_ms: int, settings: MaintenanceSettings) -> NodeWork:
    if work.phase == "draining":
        return _draining(work, facts, now_ms, settings)
    if work.phase == "doing":
        return _doing(job, work, facts, now_ms, settings)
    return _returning(work, facts, now_ms, settings) if work.phase == "returning" else work


def _draining(work: NodeWork, facts: NodeFacts | None, now_ms: int, settings: MaintenanceSettings) -> NodeWork:
    there = facts if facts is not None and facts.state == "draining" else None
    if there is not None and there.instances == 0:
        return _into(work, "doing", now_ms)
    if now_ms - work.since_ms < settings.drain_ms_max:
        return work
    held = f"{there.instances} instance(s) have no other place" if there else "it does not answer"
    return _into(work, "failed", now_ms, f"not empty within {_spoken(settings.drain_ms_max)}: {held}")


def _returning(work: NodeWork, facts: NodeFacts | None, now_ms: int, settings: MaintenanceSettings) -> NodeWork:
    if facts is None or facts.state != "draining":
        if now_ms - work.since_ms >= settings.back_ms_max:
            return _into(work, "failed", now_ms, f"not well within {_spoken(settings.back_ms_max)} of its task")
        return replace(work, well_ms=None)
    if work.well_ms is None:
        return replace(work, well_ms=now_ms)
    return _into(work, "done", now_ms) if now_ms - work.well_ms >= settings.well_ms else work


def _doing(job: Maintenance, work: NodeWork, facts: NodeFacts | None, now_ms: int, settings: MaintenanceSettings) -> NodeWork:
    said = facts.task if facts is not None and facts.state == "draining" else None
    if said is not None and said.token == token(job, work):
        if said.state == "done":
            return _into(work, "returning", now_ms)
        if said.state == "failed":
            return _into(work, "failed", now_ms, f"{job.task} failed: {said.detail or 'without a word'}")
    elif facts is not None and facts.state == "draining" and facts.instances:
        return _not_empty(job, work, now_ms)
    if now_ms - work.since_ms < settings.back_ms_max:
        return work
    why = "it did not come back" if facts is None or facts.state == "down" else "its task is not done"
    return _into(work, "failed", now_ms, f"{why} within {_spoken(settings.back_ms_max)}")


def _not_empty(job: Maintenance, work: NodeWork, now_ms: int) -> NodeWork:
    """Its city, just started, had not heard it and told of no instance there; the node begins nothing while there are any."""
    return _into(work, "skipped", now_ms, "aborted") if job.state == "aborting" else _into(work, "draining", now_ms)


@final
class _Turn:
    """Which further nodes begin now, and what the others wait for."""

    def __init__(self, job: Maintenance, facts: Facts, now_ms: int) -> None:
        self._job, self._facts, self._now_ms = job, facts, now_ms
        self._out = {work.node for work in job.nodes if work.phase in OUT_OF_SERVICE}
        self._out |= {node for node, fact in facts.nodes.items() if fact.state != "up"}
        self._of_site: dict[SiteId, set[NodeId]] = {}
        for node, fact in facts.nodes.items():
            self._of_site.setdefault(fact.site, set()).add(node)
        self._apps_on: dict[NodeId, set[int]] = {}
        for at, app in enumerate(facts.apps):
            for node in app.serves:
                self._apps_on.setdefault(node, set()).add(at)

    def taken(self) -> Maintenance:
        job, nodes, waits = self._job, list(self._job.nodes), ""
        careful = any(work.site == job.canary and work.phase in (*UNDER_WAY, "waiting") for work in nodes)
        for at, work in enumerate(nodes):
            if work.phase != "waiting":
                continue
            if careful and work.site != job.canary:
                waits = waits or f"{job.canary} goes first"
                break
            why = self._why_not(work)
            waits = waits or why
            if not why:
                nodes[at] = _into(work, "draining", self._now_ms)
                self._out.add(work.node)
        return replace(job, nodes=tuple(nodes), detail=waits)

    def _why_not(self, work: NodeWork) -> str:
        fact = self._facts.nodes.get(work.node)
        if fact is None or fact.state in ("down", "cut_off"):
            return f"{work.node} does not answer"
        others = self._of_site[work.site] - {work.node}
        here = len(others & self._out)
        if here >= self._limit(len(others) + 1):
            return f"{here} of {len(others) + 1} nodes of {work.site} are out of service"
        everywhere = len(self._out - {work.node})
        if everywhere >= self._limit(len(self._facts.nodes)):
            return f"{everywhere} of {len(self._facts.nodes)} nodes of the fleet are out of service"
        return "" if others - self._out else self._too_dear(work)

    def _limit(self, nodes: int) -> int:
        return max(1, nodes * self._job.percent // 100)

    def _too_dear(self, work: NodeWork) -> str:
        """Why the city cannot do without its last node now: apps would have less left than they are to survive."""
        for at in sorted(self._apps_on.get(work.node, ())):
            app = self._facts.apps[at]
            left = {self._facts.nodes[n].site for n in app.serves if n in self._facts.nodes and n not in self._out} - {work.site}
            if app.survive_sites and len(left) <= app.survive_sites:
                return f"{app.app} would serve from {len(left)} cities, and is to survive the loss of {app.survive_sites}"
            if len(app.serves) < app.min_total:
                return f"{app.app} has {len(app.serves)} instances, and {app.min_total} are asked for"
        return ""


def _ended(job: Maintenance, facts: Facts, now_ms: int) -> Maintenance:
    """Over, when nothing is under way and nothing can begin. Nodes that were down all the time are left out, and named."""
    if any(work.phase in UNDER_WAY for work in job.nodes):
        return job
    if job.state == "aborting":
        return replace(job, state="aborted", changed_ms=now_ms)
    waiting = [work for work in job.nodes if work.phase == "waiting"]
    if job.state != "running" or any(_answers(facts, work.node) for work in waiting):
        return job
    nodes = tuple(_into(work, "skipped", now_ms, "it did not answer") if work.phase == "waiting" else work for work in job.nodes)
    detail = f"not done, as they did not answer: {', '.join(work.node for work in waiting)}" if waiting else ""
    return replace(job, state="done", nodes=nodes, changed_ms=now_ms, detail=detail)


def _answers(facts: Facts, node: NodeId) -> bool:
    fact = facts.nodes.get(node)
    return fact is not None and fact.state in ("up", "draining")


def _into(work: NodeWork, phase: WorkPhase, now_ms: int, detail: str = "") -> NodeWork:
    return replace(work, phase=phase, since_ms=now_ms, well_ms=None, detail=detail)


def _again(work: NodeWork, now_ms: int) -> NodeWork:
    return NodeWork(node=work.node, site=work.site, since_ms=now_ms, attempt=work.attempt + 1)


def _number(node: NodeId) -> int:
    tail = node.rpartition("-")[2]
    return int(tail) if tail.isdecimal() else 0


def _spoken(ms: int) -> str:
    return f"{ms // 60_000} min" if ms >= 60_000 else f"{ms / 1000:g} s"
