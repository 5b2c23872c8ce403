"""Maintenance as people see it: how far it is, city by city, and what each node is at."""

from skerry.core.machines.maintenance import is_over
from skerry.core.types.ids import NodeId, SiteId
from skerry.core.types.maintenance import OUT_OF_SERVICE, Maintenance, NodeWork
from skerry.core.types.view import MaintenanceNodeView, MaintenanceSiteView, MaintenanceView
from skerry.services.control.observed import Observed

SAID = {
    "draining": "in maintenance: emptying",
    "doing": "in maintenance: {task}",
    "returning": "in maintenance: {task} done, coming back",
    "failed": "in maintenance: {task} failed",
}


def maintenance_view(job: Maintenance | None, observed: Observed, now_ms: int) -> MaintenanceView:
    if job is None:
        return MaintenanceView(now_ms=now_ms, detail="there was no maintenance yet")
    there: dict[NodeId, int] = {}
    by_site: dict[SiteId, list[NodeWork]] = {}
    for work in job.nodes:
        by_site.setdefault(work.site, []).append(work)
    for site in by_site:
        for item in observed.instances(site):
            there[item.node] = there.get(item.node, 0) + 1
    done = sum(work.phase == "done" for work in job.nodes)
    return MaintenanceView(
        id=job.id,
        task=job.task,
        state=job.state,
        detail=job.detail,
        max_unavailable_percent=job.percent,
        author=job.author,
        canary=job.canary,
        created_ms=job.created_ms,
        changed_ms=job.changed_ms,
        now_ms=now_ms,
        left_ms=_left_ms(job, done, now_ms),
        done=done,
        sites=tuple(
            MaintenanceSiteView(
                site=site,
                nodes=len(works),
                done=sum(work.phase == "done" for work in works),
                out_of_service=sum(work.phase in OUT_OF_SERVICE for work in works),
            )
            for site, works in by_site.items()
        ),
        nodes=tuple(
            MaintenanceNodeView(
                node=work.node,
                site=work.site,
                phase=work.phase,
                since_ms=work.since_ms,
                instances=there.get(work.node, 0),
                attempt=work.attempt,
                detail=work.detail,
            )
            for work in job.nodes
        ),
    )


def sentences(job: Maintenance | None) -> dict[NodeId, str]:
    """What is being done to each node that is out of service for it."""
    if job is None:
        return {}
    return {work.node: SAID[work.phase].format(task=job.task) for work in job.nodes if work.phase in SAID}


def _left_ms(job: Maintenance, done: int, now_ms: int) -> int | None:
    left = sum(work.phase not in ("done", "skipped") for work in job.nodes)
    if is_over(job) or not done or job.state != "running":
        return None
    return (now_ms - job.created_ms) * left // done
