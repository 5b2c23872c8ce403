"""Every node once, by the machine that maintains a real fleet: `core.machines.maintenance`, over planes."""

from typing import final

from skerry.core.machines.maintenance import Facts, MaintenanceSettings, NodeFacts, begin, is_over, out_of_service, step, tasks
from skerry.core.types.ids import NodeId, SiteId
from skerry.core.types.maintenance import Maintenance, TaskReport
from skerry.testing.world.flows.engine import FlowWorld
from skerry.testing.world.flows.story import Happening

TICK_MS = 5_000
HOUR_MS = 3_600_000


@final
class Upkeep:
    """`event.share` of a city's nodes, and of all that are meant, at a time; each is down for `event.down_ms`."""

    def __init__(self, world: FlowWorld, event: Happening) -> None:
        self._world, self._event = world, event
        self._site_at = {world.problem.sites[at].id: at for at in world.places(event.places)}
        self._settings = MaintenanceSettings(drain_ms_max=HOUR_MS, back_ms_max=event.down_ms + HOUR_MS)
        self._reports: dict[NodeId, TaskReport] = {}
        self._out: dict[SiteId, tuple[NodeId, ...]] = {}
        self._told: set[str] = set()

    def begin(self) -> None:
        world = self._world
        planes = {SiteId(name): world.planes[at] for name, at in self._site_at.items()}
        nodes = {NodeId(node): site for site, plane in planes.items() for node in plane.nodes}
        if nodes:
            job = begin(
                id_=str(self._event.at_ms),
                task="reboot",
                percent=max(1, round(self._event.share * 100)),
                author="",
                nodes=nodes,
                instances={site: len(plane.held) for site, plane in planes.items()},
                now_ms=world.now_ms,
            )
            self._tick(job)

    def _tick(self, job: Maintenance) -> None:
        world = self._world
        job = step(job, self._facts(job), world.now_ms, self._settings)
        out = out_of_service(job)
        for name, at in self._site_at.items():
            before, after = set(self._out.get(SiteId(name), ())), set(out.get(SiteId(name), ()))
            if before != after:
                self._drain(at, sorted(after - before))
                self._take_back(at, sorted(before - after))
                world.heard(at)
                world.repack(at)
        self._out = out
        for order in tasks(job):
            if order.token not in self._told:
                self._told.add(order.token)
                self._reboot(order.node, order.token)
        if not is_over(job):
            world.after(TICK_MS, lambda: self._tick(job))

    def _facts(self, job: Maintenance) -> Facts:
        world = self._world
        nodes: dict[NodeId, NodeFacts] = {}
        for work in job.nodes:
            plane = world.planes[self._site_at[work.site]]
            nodes[work.node] = NodeFacts(
                site=work.site,
                state="down" if not plane.alive((work.node,)) else plane.state(work.node),
                instances=plane.left_on(work.node, world.now_ms),
                task=self._reports.get(work.node),
            )
        return Facts(nodes=nodes)

    def _drain(self, at: int, nodes: list[NodeId]) -> None:
        plane = self._world.planes[at]
        plane.keep(tuple(nodes), self._world.now_ms)
        plane.mark(tuple(nodes), "draining")

    def _take_back(self, at: int, nodes: list[NodeId]) -> None:
        plane = self._world.planes[at]
        plane.release(tuple(nodes))
        plane.mark(tuple(nodes), "up")

    def _reboot(self, node: NodeId, token: str) -> None:
        at = self._site_at[node.rpartition("-")[0]]
        plane = self._world.planes[at]
        plane.release((node,))
        plane.die((node,))
        self._world.touch([at])

        def back() -> None:
            plane.revive((node,))
            self._reports[node] = TaskReport(token=token, state="done")

        self._world.after(self._event.down_ms, back)
