"""The planes of a simulated ground. They die as processes do.

A killed plane's tasks end and what it held in memory is gone; what is on its "disk" (the store's engine, slice and
memory files) and what it started (machines, ingress) stays. Whoever waited for its answer finds the connection broken.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Generic, TypeVar, final

from skerry.adapters.ingress.simulated import SimulatedIngress
from skerry.adapters.link.simulated import ControlSide, SimulatedControlLink, SimulatedSiteLink, SiteSide, Upper, Wire
from skerry.adapters.nodetasks.simulated import SimulatedTasks
from skerry.adapters.runtime.simulated import SimulatedRuntime
from skerry.adapters.runtime.simulated_checker import SimulatedChecker
from skerry.adapters.store.simulated import SimulatedStore
from skerry.adapters.worlds import load_catalogue
from skerry.core.geo.users import users_by_site
from skerry.core.placement.bundles import Budget, Bundle
from skerry.core.placement.solve.background import exchanges
from skerry.core.placement.solve.columns import Instances
from skerry.core.reconcile.site_types import SiteMemory
from skerry.core.types.app import Version
from skerry.core.types.demand import DailyDemand, DecidedDemand
from skerry.core.types.ids import Digest, NodeId, SiteId
from skerry.core.types.place import Node, Site
from skerry.core.types.problem import Problem
from skerry.core.types.routes import RouteTable
from skerry.core.types.slices import NodeSlice, SiteReport, SiteSlice
from skerry.kit.record import Record
from skerry.ports.ingress import Counts, TargetStats
from skerry.ports.links import LinkError, Unreachable
from skerry.ports.nodetasks import TaskEnd
from skerry.ports.store import StoreError
from skerry.services.control import keys
from skerry.services.control.declare import declare_sites
from skerry.services.control.exchanges import Exchanges
from skerry.services.control.maintenances import Maintenances
from skerry.services.control.mirror import Mirror
from skerry.services.control.observed import Observed
from skerry.services.control.placer import Placer
from skerry.services.control.rebalancing import Rebalancer
from skerry.services.control.rollouts import Rollouts
from skerry.services.control.slices import Slices
from skerry.services.control.watcher import Watcher
from skerry.services.intents.apps import Apps
from skerry.services.intents.assets import AssetSessions
from skerry.services.node.agent import Agent
from skerry.services.node.composite import CompositeRuntime
from skerry.services.node.tasks import TaskMemory
from skerry.services.operations import PlatformOperations
from skerry.services.site.controller import SiteController
from skerry.services.site.nodes import Nodes
from skerry.testing.builders import make_site
from skerry.testing.machine.agentry import Agentry
from skerry.testing.machine.node import program_runtime
from skerry.testing.world.checks import Checks
from skerry.testing.world.ground import Ground
from skerry.testing.world.host import HostMachine
from skerry.testing.world.network import Network
from skerry.testing.world.points import PointStore
from skerry.testing.world.promises import PLANE

R = TypeVar("R", bound=Record)
T = TypeVar("T")

SUFFIX = "test"
SUPERVISED_MS = 500  # until its supervisor starts a control again that could not begin
APPLY_MS = 10  # of a table to an ingress
REBOOT_MS = 3_000
INGRESS_BACK_MS = 700  # a real one is restarted by its master within a second


class ControlGone(Exception):
    """The API's connection broke: what was asked may have happened, or not."""


class MemoryFile(Generic[R]):
    """A file that survives its plane. `on_save` hears (before, after) of every save."""

    def __init__(self, on_save: Callable[[R | None, R], None]) -> None:
        self._value: R | None = None
        self._on_save = on_save

    def load(self) -> R | None:
        return self._value

    def save(self, value: R, /) -> None:
        before, self._value = self._value, value
        self._on_save(before, value)

    def lose(self) -> None:
        """The disk was wiped."""
        self._value = None


class SimPlane:
    """A process: its tasks live and die together."""

    def __init__(self, ground: Ground, name: str) -> None:
        self._ground = ground
        self.name = name
        self._task: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        return self._task is not None and not self._task.done()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        self._ground.note(f"{self.name} starts")
        self._task = asyncio.ensure_future(work)
        self._task.add_done_callback(self._ended)

    def kill(self) -> None:
        """As SIGKILL does: no clean-up that anybody else would see."""
        task, self._task = self._task, None
        if task is not None:
            self._ground.note(f"{self.name} is killed")
            task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self._ground.violate(PLANE, f"{self.name} ended by itself: {task.exception()!r}")


def _users(sites: Sequence[Site]) -> Mapping[SiteId, float]:
    catalogue = load_catalogue()
    return users_by_site(sites, catalogue.cities, catalogue.users)


async def _exchanges(problem: Problem, now: Instances, budget: Budget) -> list[Bundle]:
    return exchanges(problem, now, budget)


@final
class SimControl(SimPlane):
    """`store` is its handle on the world's engine; `on_write` of a `PointStore` can kill it at a commit."""

    def __init__(self, ground: Ground, name: str) -> None:
        super().__init__(ground, name)
        self.start()

    def start(self) -> None:
        ground = self._ground
        self.store = PointStore(SimulatedStore(ground.engine, ground.store_faults))
        self.mirror = Mirror(self.store)
        self.observed = Observed(ground.clock)
        self.slices = Slices(self.mirror, suffix=SUFFIX)
        self.placer = Placer(self.store, self.mirror, self.observed, self.slices, ground.clock, users=_users)
        exchanges = Exchanges(self.mirror, self.placer, _exchanges)
        self.rebalancer = Rebalancer(self.store, self.mirror, self.placer, ground.clock, exchanges)
        self.rollouts = Rollouts(self.store, self.mirror, self.observed, ground.clock, counts=ground.counts)
        self.maintenances = Maintenances(self.store, self.mirror, self.observed, ground.clock)
        self.operations = PlatformOperations(
            self.store,
            self.mirror,
            self.observed,
            self.placer,
            ground.clock,
            load_catalogue=load_catalogue,
            exchanges=exchanges,
            rollouts=self.rollouts,
            maintenances=self.maintenances,
            suffix=SUFFIX,
            public_port=80,
        )
        assets = AssetSessions(self.store, ground.blobs, ground.clock, ground.random_bytes)
        self.apps = Apps(
            store=self.store,
            blobs=ground.blobs,
            clock=ground.clock,
            checker=SimulatedChecker(ground.blobs),
            assets=assets,
            random_bytes=ground.random_bytes,
        )
        self.side = ControlSide(self.observed.hear, self._next_slice, ground.blobs.get, ground.fault_of(self.name))
        self.api = Upper()
        self._begin(self._main())

    async def _main(self) -> None:
        ground = self._ground
        while True:
            try:
                await declare_sites(self.store, tuple(make_site(name) for name in ground.plan))
                await self.mirror.load()
                self.observed.recall(
                    self.mirror.select(keys.DECIDED_DEMAND, DecidedDemand), self.mirror.select(keys.DAILY_DEMAND, DailyDemand)
                )
                break
            except StoreError as error:
                ground.note(f"{self.name} cannot start: {error}")
                await ground.clock.sleep_ms(SUPERVISED_MS)
        watcher = Watcher(self.store, self.mirror, self.observed, self.placer, ground.clock)
        async with asyncio.TaskGroup() as group:
            loops = (self.mirror, self.placer, self.rollouts, self.maintenances, watcher, self.rebalancer)
            for work in (loop.run() for loop in loops):
                group.create_task(work)

    async def call(self, work: Coroutine[Any, Any, T]) -> T:
        """A request to the API: raises what the use case raises, and `ControlGone` when the plane is killed meanwhile."""
        if not self.alive:
            work.close()
            raise ControlGone(f"{self.name} is down")
        try:
            return await self.api.run(work)
        except Unreachable as error:
            raise ControlGone(str(error)) from error

    def kill(self) -> None:
        super().kill()
        self.store.cut()
        self.side.end()
        self.api.end()

    async def _next_slice(self, site: SiteId, after: int, wait_ms: int) -> SiteSlice | None:
        return await self.slices.next(site, after=after, wait_ms=wait_ms)


@final
class WatchedIngress:
    """An ingress that tells the world of the tables it is given, and that comes back by itself."""

    def __init__(self, site: SiteId, network: Network, checks: Checks) -> None:
        self._checks = checks
        self.real = SimulatedIngress(
            site,
            reach=lambda address, method, host: network.reach(site, address, method, host),
        )

    async def start(self) -> None:
        await self.real.start()

    async def apply(self, table: RouteTable) -> None:
        await asyncio.sleep(APPLY_MS / 1000)
        before = self.real.table
        await self.real.apply(table)
        self._checks.on_routes(before, table)

    async def stats(self) -> tuple[TargetStats, ...]:
        return await self.real.stats()

    async def take_counts(self) -> Counts:
        return await self.real.take_counts()

    @property
    def pid(self) -> int:
        return self.real.pid

    @property
    def problems(self) -> tuple[str, ...]:
        return self.real.problems

    async def aclose(self, *, stop: bool) -> None:
        await self.real.aclose(stop=stop)


@final
class SimSite(SimPlane):
    """The controller may die alone (`kill`); its ingress and its disk stay. A city dies by `World.lose_site`."""

    def __init__(
        self,
        ground: Ground,
        name: str,
        nodes: tuple[NodeId, ...],
        *,
        controls: Callable[[], list[ControlSide]],
        network: Network,
        checks: Checks,
    ) -> None:
        super().__init__(ground, f"site {name}")
        self._expected = nodes
        self._controls = controls
        self._network = network
        self._checks = checks
        self._epochs = 0
        self.id = SiteId(name)
        self.ingress = WatchedIngress(self.id, network, checks)
        ground.ingresses[name] = self.ingress.real
        self.wire = Wire[SiteSlice](ground.clock, latency_ms=5)
        self.slice_file = MemoryFile[SiteSlice](checks.on_slice)
        self.memory_file = MemoryFile[SiteMemory](lambda before, after: checks.on_memory(self.id, after))
        self.copies: dict[Digest, bytes] = {}  # on its disk
        self.start()

    def start(self) -> None:
        ground = self._ground
        self._epochs += 1
        self._link = FanOut(self.wire, self.id, self._controls, self._checks)
        self.controller = SiteController(
            self.id,
            self.ingress,
            self._link,
            nodes=Nodes(self._expected, ground.clock, self._network.try_connect),
            clock=ground.clock,
            slice_file=self.slice_file,
            memory_file=self.memory_file,
            epoch=f"{self.id}-{self._epochs}",
            follow=self._follow,
            look=lambda address: self._network.answers(self.id, address),
        )
        self.side = SiteSide(self.controller.hear, self._next_slice, self._blob, ground.fault_of(self.name))
        self._begin(self._main())

    def kill(self) -> None:
        super().kill()
        self.side.end()

    def crash_ingress(self) -> None:
        """As kill -9 of HAProxy: its master brings it back."""
        if self.ingress.pid:
            self._ground.note(f"ingress {self.id} is killed")
            self.ingress.real.crash()
            asyncio.get_running_loop().call_later(INGRESS_BACK_MS / 1000, self._revive)

    def _revive(self) -> None:
        if not self.ingress.pid and self.id not in self._ground.lost_sites:
            self.ingress.real.revive()

    async def _main(self) -> None:
        await self.controller.start()
        await self.controller.run()

    async def _next_slice(self, node: NodeId, after: int, wait_ms: int) -> NodeSlice | None:
        return await self.controller.next_slice(node, after=after, wait_ms=wait_ms)

    async def _blob(self, digest: Digest) -> bytes:
        if digest not in self.copies:
            self.copies[digest] = await self._link.blob(digest)
        return self.copies[digest]

    async def _follow(self, versions: tuple[Version, ...]) -> None:
        with contextlib.suppress(LinkError):
            for version in versions:
                for digest in sorted(version.process_digests()):
                    await self._blob(digest)


@final
class FanOut:
    """A site's link: reports go to every control, slices come from the first that lives."""

    def __init__(self, wire: Wire[SiteSlice], site: SiteId, controls: Callable[[], list[ControlSide]], checks: Checks) -> None:
        self._controls = controls
        self._checks = checks
        self._link = SimulatedControlLink(wire, site, self._first)
        self._others = [SimulatedControlLink(wire, site, lambda c=c: self._nth(c)) for c in range(1, 4)]

    async def report(self, report: SiteReport) -> None:
        self._checks.on_refusals(report.site, report.refused)
        await self._link.report(report)
        for number, link in enumerate(self._others, start=1):
            if self._nth(number) is not None:
                await link.report(report)

    async def next_slice(self, *, after: int, wait_ms: int) -> SiteSlice | None:
        return await self._link.next_slice(after=after, wait_ms=wait_ms)

    async def blob(self, digest: Digest) -> bytes:
        return await self._link.blob(digest)

    def _first(self) -> ControlSide | None:
        return self._nth(0)

    def _nth(self, number: int) -> ControlSide | None:
        living = self._controls()
        return living[number] if number < len(living) else None


@final
class SimNode(SimPlane):
    """The agent may die alone (`kill`), or with everything on its machine (`power_off`); `start` starts it again."""

    def __init__(self, ground: Ground, node: Node, *, site: Callable[[], SiteSide | None], checks: Checks) -> None:
        super().__init__(ground, f"node {node.id}")
        ground.hosts[node.id] = self
        self._upper = site
        self._epochs = 0
        self._node = node
        self.id = node.id
        self.site = node.site
        self.capacity = node.capacity
        self.machine = HostMachine(node.address, ground.faults, ground.behaviours)
        self.wire = Wire[NodeSlice](ground.clock)
        self.file = MemoryFile[NodeSlice](checks.on_slice)
        self.task_file = MemoryFile[TaskMemory](lambda before, after: None)
        self.task_ends: dict[str, TaskEnd] = {}
        self.reboot_ms: int | None = REBOOT_MS  # None: it does not come back by itself
        self.boots = 0  # times that its machine was started again
        self.powered = True
        self.booted_ms = 0
        self.started_ms = 0  # its agent
        self.start()

    def start(self) -> None:
        ground = self._ground
        self._epochs += 1
        if not self.powered:
            self.boots, self.booted_ms = self.boots + 1, ground.clock.now_ms()
        self.powered, self.started_ms = True, ground.clock.now_ms()
        link = SimulatedSiteLink(self.wire, self.id, self._upper)
        self.hold = Agentry(self.machine.programs)
        self.workers = SimulatedRuntime(self.machine.workers, ground.clock, fetch=link.blob)
        self.programs = program_runtime(self.hold, node=self.id, clock=ground.clock, fetch=link.blob)
        self.runtime = CompositeRuntime(self.workers, self.programs)
        self.agent = Agent(
            self._node,
            self.runtime,
            link,
            ground.clock,
            self.file,
            epoch=f"{self.id}-{self._epochs}",
            tasks=SimulatedTasks(ground.clock, life=f"{self.id}-{self._epochs}", restart=self._reboot, ends=self.task_ends),
            task_file=self.task_file,
        )
        self._begin(self._main())

    def kill(self) -> None:
        super().kill()
        self.hold.kill()
        self.workers.abandon()
        self.programs.abandon()

    async def request(self, address: str) -> int:
        """Raises `ConnectionRefusedError`."""
        if any(cell.address == address for cell in self.machine.workers.cells.values()):
            return (await self.workers.request(address)).status
        return await self.machine.request(address)

    def _reboot(self) -> None:
        """Of its own will: it is off now, and back after a while."""
        if self.machine.cells:
            self._ground.violate(PLANE, f"{self.id} reboots with {len(self.machine.cells)} instances on it")
        loop = asyncio.get_running_loop()
        loop.call_soon(self.power_off)
        if self.reboot_ms is not None:
            loop.call_later(self.reboot_ms / 1000, self._boot)

    def _boot(self) -> None:
        if not self.powered and self.site not in self._ground.lost_sites:
            self.start()

    def power_off(self) -> None:
        """The machine is gone with all it ran; `start` is its next boot."""
        self.kill()
        self.powered = False
        self._ground.note(f"{self.name} is off")
        self.machine.power_off()

    async def _main(self) -> None:
        await self.runtime.attach()
        await self.agent.run()
