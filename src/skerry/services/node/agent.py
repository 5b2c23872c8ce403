"""A node's agent: makes what runs equal to the slice it was given, and reports what it sees.

It holds the newest slice on disk, so that after its own restart it goes on without anybody's help, and it
refuses an older generation than the one it holds. Starting and stopping go on side by side, one at a time
for each instance.
"""

import asyncio
import os
from collections.abc import Coroutine
from typing import Any

import structlog
from msgspec.structs import replace

from skerry.core.reconcile.node import reconcile_node
from skerry.core.types.ids import InstanceId
from skerry.core.types.place import Node
from skerry.core.types.resources import Resources
from skerry.core.types.slices import NodeInstance, NodeReport, NodeSlice, ObservedInstance
from skerry.kit.record import Record
from skerry.ports.clock import Clock
from skerry.ports.links import LinkError, SiteLink
from skerry.ports.nodetasks import NodeTasks
from skerry.ports.recordfile import RecordFile
from skerry.ports.runtime import Runtime, RuntimeFault
from skerry.services.node.features import features_of
from skerry.services.node.tasks import TaskKeeper, TaskMemory
from skerry.services.uplink import UplinkSettings, keep_fetching, keep_reporting

log = structlog.get_logger()


class AgentSettings(Record):
    """`wait_ms`: how long a call for a slice is held. `starts_max`: instances started side by side."""

    uplink: UplinkSettings = UplinkSettings(heartbeat_ms=500)
    wait_ms: int = 20_000
    stop_grace_ms: int = 5_000
    fault_pause_ms: int = 2_000  # before what the runtime could not do is tried again
    starts_max: int = 8


class Agent:
    """Attach the runtime, then run `run` as one task; cancel it to stop. The runtime is the caller's to close.

    `node` offers what the attached runtime's isolation classes are (`kvm`: and that), besides its own features.
    """

    def __init__(
        self,
        node: Node,
        runtime: Runtime,
        link: SiteLink,
        clock: Clock,
        file: RecordFile[NodeSlice],
        *,
        epoch: str,
        tasks: NodeTasks | None = None,
        task_file: RecordFile[TaskMemory] | None = None,
        settings: AgentSettings | None = None,
        kvm: bool = False,
    ) -> None:
        self._node = node
        self._runtime = runtime
        self._link = link
        self._clock = clock
        self._file = file
        self._epoch = epoch
        self._settings = settings or AgentSettings()
        self._slice = NodeSlice(node=node.id, generation=0)
        self._kvm = kvm
        self._not_begun: dict[InstanceId, ObservedInstance] = {}  # what the runtime could not begin, and why
        self._sequence = 0
        self._busy: dict[InstanceId, asyncio.Task[None]] = {}
        self._starts = asyncio.Semaphore(self._settings.starts_max)
        self._wake = asyncio.Event()
        self._report_due = asyncio.Event()
        self._tasks = TaskKeeper(tasks, task_file, self._report_due) if tasks is not None and task_file is not None else None

    async def run(self) -> None:
        self._slice = self._file.load() or self._slice
        if self._tasks is not None:
            self._tasks.load()
        self._wake.set()
        async with asyncio.TaskGroup() as group:
            self._group = group
            group.create_task(self._reconcile_loop())
            group.create_task(self._watch_runtime())
            group.create_task(keep_reporting(self._send_report, self._report_due, self._clock, self._settings.uplink))
            group.create_task(keep_fetching(self._fetch_slice, self._clock, self._settings.uplink))

    def accept(self, slice_: NodeSlice) -> bool:
        """Take a newer slice, durably; an older or equal generation, or another node's, changes nothing."""
        if slice_.node != self._node.id or slice_.generation <= self._slice.generation:
            return False
        self._file.save(slice_)
        self._slice = slice_
        self._wake.set()
        self._report_due.set()
        return True

    def step(self) -> None:
        """Begin what has to be begun. What is under way for an instance is let finish first."""
        observed = self._runtime.observe()
        actions = reconcile_node(self._slice, observed)
        order = self._slice.task
        empty = not self._slice.instances and not observed and not self._busy
        if self._tasks is not None and order is not None and empty and self._tasks.wants(order):
            self._tasks.begin(order, self._group)
        for instance in actions.start:
            if instance.id not in self._busy:
                self._begin(instance.id, self._start(instance))
        for instance_id in actions.stop:
            if instance_id not in self._busy:
                self._begin(instance_id, self._stop(instance_id))

    def report(self) -> NodeReport:
        """What is seen now; every report has a higher number."""
        self._sequence += 1
        reserved = Resources()
        for instance in self._slice.instances:
            reserved += instance.version.limits.reserve
        return NodeReport(
            node=replace(self._node, reserved=reserved, pid=os.getpid(), features=self._features(), tasks=self._allowed()),
            epoch=self._epoch,
            sequence=self._sequence,
            slice_generation=self._slice.generation,
            instances=self._seen(),
            task=self._tasks.report if self._tasks else None,
        )

    def _allowed(self) -> tuple[str, ...]:
        return self._tasks.allowed if self._tasks else ()

    def _features(self) -> tuple[str, ...]:
        return features_of(self._runtime.capabilities, own=self._node.features, kvm=self._kvm)

    def _seen(self) -> tuple[ObservedInstance, ...]:
        """What the runtime has, and what it cannot begin: nobody else would tell why."""
        observed = self._runtime.observe()
        known, wanted = {seen.id for seen in observed}, {instance.id for instance in self._slice.instances}
        self._not_begun = {name: seen for name, seen in self._not_begun.items() if name in wanted - known}
        return (*observed, *(self._not_begun[name] for name in sorted(self._not_begun)))

    def _begin(self, instance_id: InstanceId, work: Coroutine[Any, Any, None]) -> None:
        task = self._group.create_task(work)
        self._busy[instance_id] = task
        task.add_done_callback(lambda _: self._finished(instance_id))

    def _finished(self, instance_id: InstanceId) -> None:
        self._busy.pop(instance_id, None)
        self._wake.set()

    async def _start(self, instance: NodeInstance) -> None:
        try:
            async with self._starts:
                await self._runtime.start(instance)
        except RuntimeFault as fault:
            log.error("start_failed", instance=instance.id, error=str(fault))
            self._could_not_begin(instance, str(fault))
            await self._clock.sleep_ms(self._settings.fault_pause_ms)
        except LinkError as error:
            log.warning("start_waits", instance=instance.id, error=str(error))
            await self._clock.sleep_ms(self._settings.fault_pause_ms)

    def _could_not_begin(self, instance: NodeInstance, why: str) -> None:
        before, version = self._not_begun.get(instance.id), instance.version
        self._not_begun[instance.id] = ObservedInstance(
            id=instance.id,
            account=version.account,
            app=version.app,
            version=version.id,
            state="backoff",
            since_ms=before.since_ms if before is not None else self._clock.now_ms(),
            restarts=before.restarts + 1 if before is not None else 1,
            detail=why,
        )
        self._report_due.set()

    async def _stop(self, instance_id: InstanceId) -> None:
        try:
            await self._runtime.stop(instance_id, grace_ms=self._settings.stop_grace_ms)
        except RuntimeFault as fault:
            log.error("stop_failed", instance=instance_id, error=str(fault))
            await self._clock.sleep_ms(self._settings.fault_pause_ms)

    async def _reconcile_loop(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            self.step()

    async def _watch_runtime(self) -> None:
        async for _ in self._runtime.changes():
            self._wake.set()
            self._report_due.set()

    async def _send_report(self) -> None:
        await self._link.report(self.report())

    async def _fetch_slice(self) -> None:
        slice_ = await self._link.next_slice(after=self._slice.generation, wait_ms=self._settings.wait_ms)
        if slice_ is not None:
            self.accept(slice_)
