"""A site's controller: packs its slice on its nodes, routes to what serves, and reports to control.

Everything that it needs is on its own disk: the last slice and the memory of what it decided. Cut off from control
it goes on packing, restarting and routing; restarted, it moves nothing that runs.

    slice from control ┐
    reports of nodes   ├─> decide_site (pure) ─> ingress routes ─> node slices ─> report to control
    memory on disk     ┘
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from msgspec.structs import replace

from skerry.core.checks.site import site_violations
from skerry.core.packing.types import DEFAULTS, PackingSettings
from skerry.core.reconcile.observers import looked_at
from skerry.core.reconcile.site import decide_site, remember
from skerry.core.reconcile.site_types import SiteDecision, SiteInput, SiteMemory
from skerry.core.types.app import Version
from skerry.core.types.ids import InstanceId, NodeId, SiteId
from skerry.core.types.maintenance import NodeTask, NodeTaskReport
from skerry.core.types.routes import RouteTable
from skerry.core.types.slices import (
    SERVING_STATES,
    NodeInstance,
    NodeReport,
    NodeSlice,
    Sighting,
    SilentNode,
    SiteInstance,
    SiteReport,
    SiteSlice,
)
from skerry.kit.record import Record
from skerry.ports.clock import Clock
from skerry.ports.ingress import Ingress, IngressFault
from skerry.ports.links import ControlLink
from skerry.ports.recordfile import RecordFile
from skerry.services.site.nodes import Nodes
from skerry.services.site.traffic import AppKey, Traffic, VersionKey
from skerry.services.uplink import UplinkSettings, keep_fetching, keep_reporting, wait_event

log = structlog.get_logger()


Look = Callable[[str], Awaitable[bool]]
"""Whether another site's peer frontend (host:port) accepts connections, within two seconds."""

Follow = Callable[[tuple[Version, ...]], Awaitable[None]]
"""Makes the site's copies of blobs those of these versions; never raises what is only a link's or a blob's trouble."""

COUNT_REST, COUNT_MS_MAX = 20, 5_000  # so many times as long as it took to read counts nobody reads them


class ControllerSettings(Record):
    """`first_look_ms`: how long a controller without a memory waits for its nodes to report before it decides."""

    uplink: UplinkSettings = UplinkSettings(heartbeat_ms=1_000)
    wait_ms: int = 20_000
    look_ms: int = 500
    stats_ms: int = 200  # while something drains
    count_ms: int = 1_000  # users' requests
    sight_ms: int = 1_000  # other sites
    first_look_ms: int = 3_000
    fault_pause_ms: int = 2_000  # before what the ingress could not do is tried again
    packing: PackingSettings = DEFAULTS


class SiteController:
    """Call `start`, then run `run` as one task. The ingress and the link are the caller's to close."""

    def __init__(
        self,
        site: SiteId,
        ingress: Ingress,
        link: ControlLink,
        *,
        nodes: Nodes,
        clock: Clock,
        slice_file: RecordFile[SiteSlice],
        memory_file: RecordFile[SiteMemory],
        epoch: str,
        pid: int = 0,
        follow: Follow | None = None,
        look: Look | None = None,
        settings: ControllerSettings | None = None,
    ) -> None:
        self._site = site
        self._ingress = ingress
        self._link = link
        self._nodes = nodes
        self._clock = clock
        self._slice_file = slice_file
        self._memory_file = memory_file
        self._epoch = epoch
        self._pid = pid
        self._follow = follow
        self._followed = asyncio.Event()
        self._settings = settings or ControllerSettings()
        self._slice: SiteSlice | None = None
        self._memory: SiteMemory | None = None
        self._decision: SiteDecision | None = None
        self._table: RouteTable | None = None
        self._applied = False  # whether the ingress is known to have all of the table
        self._in_flight: dict[InstanceId, int] | None = None
        self._look = look
        self._sightings: tuple[Sighting, ...] = ()
        self._handed: dict[NodeId, NodeSlice] = {}
        self._met: set[NodeId] = set()
        self._sequence = 0
        self._executed = 0  # generation of the slice that the last decision was made on
        self._started_ms = 0
        self._traffic = Traffic(clock.monotonic_ms())
        self._versions: dict[InstanceId, VersionKey] = {}
        self._wake = asyncio.Event()
        self._report_due = asyncio.Event()
        self._handed_out = asyncio.Event()

    async def start(self) -> None:
        """Load what is known and start the ingress (or take over one that runs). Raises `IngressFault`."""
        self._slice = self._slice_file.load()
        self._memory = self._memory_file.load()
        if self._memory is not None:
            self._nodes.decided(self._memory)
        self._started_ms = self._clock.monotonic_ms()
        await self._ingress.start()

    async def run(self) -> None:
        self._wake.set()
        self._followed.set()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._decide_loop())
            group.create_task(self._look_loop())
            group.create_task(self._count_loop())
            group.create_task(self._follow_loop())
            group.create_task(self._sight_loop())
            group.create_task(keep_fetching(self._fetch_slice, self._clock, self._settings.uplink))
            group.create_task(keep_reporting(self._send_report, self._report_due, self._clock, self._settings.uplink))

    def known(self, node: NodeId) -> bool:
        return node in self._nodes.expected

    def node_of(self, instance: InstanceId) -> NodeId | None:
        """Where the instance runs, retiring ones too; None: not in this site."""
        memory = self._memory
        held = (*memory.held, *(entry.held for entry in memory.retiring)) if memory else ()
        return next((item.node for item in held if item.instance == instance), None)

    def hear(self, report: NodeReport) -> None:
        """A node's report, by its API."""
        news = self._nodes.hear(report)
        if news == "decide":
            self._wake.set()
        elif news == "report":
            self._report_due.set()

    async def next_slice(self, node: NodeId, *, after: int, wait_ms: int) -> NodeSlice | None:
        """What `node` has to run, if it is newer than `after`; None after `wait_ms`."""
        deadline_ms = self._clock.monotonic_ms() + wait_ms
        while True:
            slice_ = self._slice_for(node, after)
            left_ms = deadline_ms - self._clock.monotonic_ms()
            if slice_ is not None or left_ms <= 0:
                return slice_
            await wait_event(self._handed_out, left_ms)

    def accept(self, slice_: SiteSlice) -> bool:
        """Take a newer slice, durably; another site's or an older generation changes nothing."""
        if slice_.site != self._site or (self._slice is not None and slice_.generation <= self._slice.generation):
            return False
        self._slice_file.save(slice_)
        self._slice = slice_
        self._wake.set()
        self._followed.set()
        return True

    def report(self) -> SiteReport:
        """What is seen now; every report has a higher number."""
        self._sequence += 1
        decision = self._decision
        hidden = self._not_led_to_yet()
        instances = tuple(
            SiteInstance(node=heard.report.node.id, instance=replace(seen, state="starting") if seen.id in hidden else seen)
            for heard in self._nodes.reports()
            if heard.report.node.id not in self._nodes.lost
            for seen in heard.report.instances
            if heard.report.node.id not in self._nodes.cut_off or self._nodes.remembers(seen.id)
        )
        heard_nodes = tuple(heard.report.node for heard in self._nodes.reports())
        return SiteReport(
            site=self._site,
            epoch=self._epoch,
            sequence=self._sequence,
            slice_generation=self._executed,
            nodes=decision.nodes if decision else heard_nodes,
            instances=instances,
            refused=decision.refused if decision else (),
            silent=self._silent_nodes(),
            tasks=tuple(
                NodeTaskReport(node=heard.report.node.id, report=heard.report.task)
                for heard in self._nodes.reports()
                if heard.report.task is not None
            ),
            pid=self._pid,
            ingress_pid=self._ingress.pid,
            problems=self._ingress.problems,
            sightings=self._sightings,
            traffic=self._traffic.report(),
        )

    def _silent_nodes(self) -> tuple[SilentNode, ...]:
        return tuple(
            SilentNode(node=node, lost=opinion.state == "lost", phi=opinion.phi, silent_ms=opinion.silent_ms)
            for node, opinion in self._nodes.opinions().items()
        )

    def _not_led_to_yet(self) -> frozenset[InstanceId]:
        """Wanted instances that may serve, but that no request is led to: to users they are still starting."""
        if self._table is None or self._memory is None:
            return frozenset()
        routed = {target.instance for route in self._table.routes for target in route.targets}
        unrouted = {held.instance for held in self._memory.held} - routed
        seen = (seen for heard in self._nodes.reports() for seen in heard.report.instances)
        return frozenset(i.id for i in seen if i.id in unrouted and i.address is not None and i.state in SERVING_STATES)

    async def step(self) -> int | None:
        """Decide once and carry it out; when to decide again by time alone. Raises `IngressFault`."""
        if self._slice is None or not self._may_decide():
            return None
        if self._memory is None:
            self._memory = remember(self._slice, self._nodes.reports())
        given = SiteInput(
            slice_=self._slice,
            memory=self._memory,
            reports=self._nodes.reports(),
            lost=self._nodes.lost,
            in_flight=self._in_flight,
            now_ms=self._clock.now_ms(),
            packing=self._settings.packing,
            cut_off=self._nodes.cut_off,
        )
        decision = decide_site(given)
        found = site_violations(given, decision)
        if found:
            log.error("decision_violates", violations=found)
            return None  # what runs goes on; the next report or slice is another chance
        self._executed = given.slice_.generation
        for entry in decision.preempted:
            log.info("preempted", instance=entry.held.instance, node=entry.held.node, app=entry.held.app, by=entry.by_app)
        await self._carry_out(decision)
        return decision.wake_ms

    def _may_decide(self) -> bool:
        """A controller that lost its memory first hears what runs, lest it starts everything twice."""
        if self._memory is not None or all(self._nodes.heard(node) for node in self._nodes.expected):
            return True
        return self._clock.monotonic_ms() - self._started_ms > self._settings.first_look_ms

    async def _carry_out(self, decision: SiteDecision) -> None:
        """Routes first, then slices: what leaves a slice has left the routes before."""
        if decision.memory != self._memory or self._decision is None:
            self._memory_file.save(decision.memory)
        self._memory, self._decision = decision.memory, decision
        self._nodes.decided(decision.memory)
        self._keep_counting(decision.memory)
        if not self._applied or decision.routes != self._table:
            self._applied = False  # one that fails may have taken it, or a part: then even the table of before is news to it
            await self._ingress.apply(decision.routes)
            self._table, self._applied = decision.routes, True
        tasks = {task.node: task for task in self._slice.tasks} if self._slice else {}
        for contents in decision.slices:
            self._hand_out(contents.node, contents.instances, tasks.get(contents.node))
        self._report_due.set()

    def _hand_out(self, node: NodeId, instances: tuple[NodeInstance, ...], task: NodeTask | None) -> None:
        last = self._handed.get(node)
        if last is not None and (last.instances, last.task) == (instances, task):
            return
        generation = last.generation + 1 if last else 1
        self._handed[node] = NodeSlice(node=node, generation=generation, instances=instances, task=task)
        _announce(self._handed_out)

    def _slice_for(self, node: NodeId, after: int) -> NodeSlice | None:
        """The node's slice if it does not have it.

        At its first call a node may hold a generation of an earlier controller: then ours is numbered behind it,
        since nobody knows what the old one said.
        """
        slice_ = self._handed.get(node)
        if slice_ is None:
            return None
        if node not in self._met:
            self._met.add(node)
            slice_ = replace(slice_, generation=max(after, slice_.generation) + 1)
            self._handed[node] = slice_
        return slice_ if slice_.generation > after else None

    async def _decide_loop(self) -> None:
        while True:
            self._wake.clear()
            wake_ms: int | None = None
            try:
                wake_ms = await self.step()
            except IngressFault as fault:
                log.error("ingress_fault", error=str(fault))
                wake_ms = self._clock.now_ms() + self._settings.fault_pause_ms
            draining = self._memory is not None and bool(self._memory.retiring)
            due_ms = self._settings.look_ms if self._decision is None else 3_600_000
            if wake_ms is not None:
                due_ms = min(due_ms, max(1, wake_ms - self._clock.now_ms()))
            if draining:
                due_ms = min(due_ms, self._settings.stats_ms)
            await wait_event(self._wake, due_ms)
            self._in_flight = await self._count_in_flight() if draining else None

    async def _count_in_flight(self) -> dict[InstanceId, int] | None:
        try:
            return {InstanceId(stats.instance): stats.in_flight for stats in await self._ingress.stats()}
        except IngressFault as fault:
            log.warning("stats_fault", error=str(fault))
            return None

    async def _count_loop(self) -> None:
        """At a pace of its own, as a report never waits for the ingress; slower where there is much to read."""
        took_ms = 0
        while True:
            await self._clock.sleep_ms(min(COUNT_MS_MAX, max(self._settings.count_ms, COUNT_REST * took_ms)))
            begun_ms = self._clock.monotonic_ms()
            try:
                counts = await self._ingress.take_counts()
            except IngressFault as fault:
                log.warning("counts_fault", error=str(fault))
                continue
            now_ms = self._clock.monotonic_ms()
            took_ms = now_ms - begun_ms
            if self._traffic.add(counts, self._versions, now_ms=now_ms):
                self._report_due.set()

    async def _sight_loop(self) -> None:
        """Whether other sites answer is what control asks of several before it gives one up."""
        while self._look is not None:
            await self._clock.sleep_ms(self._settings.sight_ms)
            peers = {peer.site: peer.address for peer in self._slice.peers} if self._slice else {}
            names = looked_at(self._site, peers)
            answers = await asyncio.gather(*(self._look(peers[name]) for name in names))
            sightings = tuple(Sighting(site=name, answers=found) for name, found in zip(names, answers, strict=True))
            if sightings != self._sightings:
                self._sightings = sightings
                self._report_due.set()

    def _keep_counting(self, memory: SiteMemory) -> None:
        """For all instances that requests are, or still may be, led to."""
        held = (*memory.held, *(entry.held for entry in memory.retiring))
        self._versions = {entry.instance: (entry.account, entry.app, entry.version) for entry in held}
        apps = {(app.account, app.app) for app in self._slice.apps} if self._slice else set[AppKey]()
        self._traffic.keep(apps, set(self._versions.values()))

    async def _look_loop(self) -> None:
        while True:
            await self._clock.sleep_ms(self._settings.look_ms)
            if await self._nodes.look():
                self._wake.set()

    async def _follow_loop(self) -> None:
        """Have at hand what nodes may be told to start, also when control is away by then."""
        while self._follow is not None:
            await self._followed.wait()
            self._followed.clear()
            slice_ = self._slice
            if slice_ is not None:
                await self._follow(tuple(entry.version for app in slice_.apps for entry in app.versions))

    async def _send_report(self) -> None:
        """Not before the first decision: a site that has yet to hear its nodes would seem to have none."""
        if self._decision is not None:
            report = self.report()
            await self._link.report(report)
            if report.traffic is not None:
                self._traffic.told(report.traffic)

    async def _fetch_slice(self) -> None:
        held = self._slice.generation if self._slice else 0
        slice_ = await self._link.next_slice(after=held, wait_ms=self._settings.wait_ms)
        if slice_ is not None:
            self.accept(slice_)


def _announce(event: asyncio.Event) -> None:
    """Wake everybody who waits now."""
    event.set()
    event.clear()
