"""Which nodes take nothing new: by an operator's word, or since maintenance is at them."""

from skerry.core.machines.maintenance import out_of_service, tasks
from skerry.core.types.control import SiteIntent
from skerry.core.types.ids import NodeId, SiteId
from skerry.core.types.maintenance import Maintenance, NodeTask
from skerry.services.control import keys
from skerry.services.control.mirror import Mirror


class Drains:
    """Read from the mirror; what maintenance says is worked out once for each of its steps."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._job: Maintenance | None = None
        self._out: dict[SiteId, tuple[NodeId, ...]] = {}
        self._tasks: dict[SiteId, tuple[NodeTask, ...]] = {}

    def of(self, intent: SiteIntent) -> tuple[NodeId, ...]:
        """All of the site, by name."""
        self._follow()
        return tuple(sorted({*intent.draining_nodes, *self._out.get(intent.site.id, ())}))

    def tasks(self, site: SiteId) -> tuple[NodeTask, ...]:
        """What nodes of the site are told to do."""
        self._follow()
        return self._tasks.get(site, ())

    def _follow(self) -> None:
        job = self._mirror.get(keys.MAINTENANCE_NOW, Maintenance)
        if job is self._job:
            return
        self._job, self._out, self._tasks = job, out_of_service(job), {}
        for task in tasks(job):
            site = keys.site_of_node(task.node)
            self._tasks[site] = (*self._tasks.get(site, ()), task)
