"""The life of a microVM, whichever monitor runs it; `skerry.ports.sandbox.SandboxEngine` but for a monitor's own words.

    start:  origin -> launch -> wake -> HELLO -> CONFIG, RUN      a guest that has booted, or does now
                                             -> IDENTITY          a snapshot of a running one
    open:   record -> started.json -> HELLO
    remove: all that has its name

`started.json` is written last: a machine without one is nobody's, and is removed.
"""

import asyncio
import contextlib
import os
import re
import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

import structlog

from skerry.adapters.cgroup.base import Tree
from skerry.adapters.cgroup.probe import find_tree
from skerry.adapters.cgroup.v1 import CONTROLLERS
from skerry.adapters.process import detached
from skerry.adapters.sandbox.microvm import fields, monitor
from skerry.adapters.sandbox.microvm.agent import AgentLost, GuestAgent
from skerry.adapters.sandbox.microvm.box import MicroVm, Running, Started, greet, host_limits, started_by
from skerry.adapters.sandbox.microvm.monitor import Monitor
from skerry.adapters.sandbox.microvm.protocol import GuestState
from skerry.adapters.sandbox.microvm.settings import Places, Settings
from skerry.kit.record import decode, encode
from skerry.ports.sandbox import EngineFacts, EngineUnavailable, SandboxError, SandboxLimits, SandboxSpec, StartError

log = structlog.get_logger()

ID = re.compile(r"[0-9a-f]{16}")
DYING_S = 1.0  # a monitor that was killed gives back its memory first
OPEN_S = 10
STARTED_FILE = "started.json"

Box = TypeVar("Box", bound=MicroVm)
Machine = TypeVar("Machine", bound=Running)
Origin = TypeVar("Origin")  # what a machine starts from


class MicroVmEngine(ABC, Generic[Box, Machine, Origin]):
    """One per node and process. `attach` before all else."""

    faults: ClassVar[tuple[type[Exception], ...]]  # of the protocol that the monitor is asked by
    pids_max: ClassVar[int]  # threads of a monitor

    def __init__(self, *, data: Path, run: Path, settings: Settings | None, before: tuple[Places, ...] = ()) -> None:
        """`before`: places of engines of another kind, which the node may have had earlier. Raises `EngineUnavailable` with what
        this machine lacks and how to get it."""
        self.settings = settings or Settings()
        self.places = Places(data, run)
        tree, problem = find_groups(self.places)
        if tree is None:
            raise EngineUnavailable(problem)
        self.tree: Tree = tree
        self._before = before
        self._open: dict[str, Box] = {}

    # A monitor's own words.

    @property
    @abstractmethod
    def facts(self) -> EngineFacts: ...

    @abstractmethod
    async def _origin(self, spec: SandboxSpec, snapshot: Path | None) -> Origin:
        """Raises `EngineUnavailable`."""

    @abstractmethod
    async def _launch(self, spec: SandboxSpec, origin: Origin) -> Machine:
        """Its process. Raises `EngineUnavailable`; then `_erase` finds what there is."""

    @abstractmethod
    async def _wake(self, running: Machine, spec: SandboxSpec, origin: Origin) -> GuestAgent:
        """Its guest runs and answers. Raises `AgentLost`, `OSError`, `TimeoutError` and `faults`."""

    @abstractmethod
    def _kept(self, spec: SandboxSpec, origin: Origin) -> tuple[int, bytes]:
        """What is told to later agents: memory of the machine in MiB, and whatever its snapshots need."""

    @abstractmethod
    def _runs(self, origin: Origin) -> bool:
        """A program runs in it already."""

    @abstractmethod
    def _found(self, process: Monitor) -> Machine:
        """One that an earlier agent launched."""

    @abstractmethod
    def _box(self, started: Started, running: Machine, agent: GuestAgent | None) -> Box: ...

    @abstractmethod
    async def _erase(self, name: str) -> None:
        """All that there is of a machine. Idempotent, and safe after a kill at any step of its start."""

    # The life.

    async def attach(self, known: frozenset[str]) -> None:
        for places in self._before:
            await sweep(places)
        self.places.make()
        for name in sorted(self._names() - self._names_of(known)):
            try:
                await self._erase(name)
            except SandboxError as error:  # the next attach tries again
                log.error("leftover_stays", machine=name, error=str(error))

    async def start(self, spec: SandboxSpec, *, snapshot: str | None = None) -> Box:
        if not ID.fullmatch(spec.id):
            raise StartError(f"{spec.id!r} is not an id of 16 hex digits")
        if spec.disk is None:
            raise EngineUnavailable("a microVM boots from a disk of its image, and was given none")
        if self.places.machine(self._name_of(spec.id)).exists():
            raise StartError(f"{spec.id} is there already")
        config = fields.program(spec) if snapshot is None else fields.identity(spec)  # what is wrong with it is told at once
        origin = await self._origin(spec, Path(snapshot) if snapshot is not None else None)
        running = await self._launch(spec, origin)
        try:
            agent = await self._wake(running, spec, origin)
            return await self._introduce(running, agent, spec, origin, config)
        except (AgentLost, OSError, TimeoutError, *self.faults) as error:
            said = running.said()
            await self._give_up(running)
            raise EngineUnavailable(f"a microVM does not start: {error}; {said}") from error
        except BaseException:
            await self._give_up(running)
            raise

    async def open(self, sandbox_id: str) -> Box | None:
        held = self._open.get(sandbox_id)
        if held is not None:
            return held if held.process.alive() else None
        name = self._name_of(sandbox_id)
        process = monitor.attach(name, records=self.places.processes, tree=self.tree)
        if process is None:
            return None
        try:
            started = decode((self.places.machine(name) / STARTED_FILE).read_bytes(), Started)
        except (OSError, ValueError):  # whoever started it did not come to the end of that
            process.close()
            return None
        running, agent = self._found(process), None
        try:
            agent = await self._greet(running, timeout_s=OPEN_S)
        except (OSError, TimeoutError, AgentLost) as error:
            if not await process.outlives(DYING_S):
                process.close()
                return None
            log.warning("guest_silent", id=sandbox_id, error=str(error))  # paused, or stuck: it is there all the same
        return self._hold(started, running, agent)

    async def remove(self, sandbox_id: str) -> None:
        held = self._open.get(sandbox_id)
        if held is not None:
            await held.process.end()
            await held.wait()
            await held.let_go()
            self._open.pop(sandbox_id, None)
        if ID.fullmatch(sandbox_id):
            await self._erase(self._name_of(sandbox_id))

    async def keep_spares(self, allowed: bool) -> int:
        return 0

    async def aclose(self) -> None:
        for held in self._open.values():
            await held.let_go()
        self._open.clear()

    def vcpus(self, limits: SandboxLimits) -> int:
        return max(1, min(self.settings.vcpus_max, os.cpu_count() or 1, -(-limits.cpu_millicores_max // 1000)))

    def _names(self) -> set[str]:
        """Of all machines that there may be something of."""
        return {
            *detached.names(self.places.processes),
            *(path.name for path in self.places.machines.iterdir()),
            *self.tree.names(),
        }

    def _names_of(self, known: frozenset[str]) -> frozenset[str]:
        return known

    def _name_of(self, sandbox_id: str) -> str:
        """Of its machine: record, directory and group."""
        return sandbox_id

    async def _greet(self, running: Machine, *, timeout_s: float) -> GuestAgent:
        """Raises `AgentLost`, `OSError`, `TimeoutError`."""
        async with asyncio.timeout(timeout_s):
            streams = await running.connect_agent_stream()
        return await greet(*streams, running.process, timeout_s=timeout_s)

    async def _introduce(
        self, running: Machine, agent: GuestAgent, spec: SandboxSpec, origin: Origin, config: list[bytes]
    ) -> Box:
        """Tell the guest who it is, and what to run if it does not yet."""
        runs = self._runs(origin)
        try:
            if (agent.state == GuestState.FRESH) == runs:
                raise EngineUnavailable("the snapshot is not what it says")
            await (agent.take_identity(config) if runs else agent.run(config))
            guest_mib, about = self._kept(spec, origin)
            started = started_by(spec, guest_mib=guest_mib, about=about)
            running.process.group.limit(host_limits(spec.limits, self.settings, pids=self.pids_max))
            detached.write_private(self.places.machine(running.process.name) / STARTED_FILE, encode(started))
        except BaseException:
            await agent.aclose()
            raise
        return self._hold(started, running, agent)

    def _hold(self, started: Started, running: Machine, agent: GuestAgent | None) -> Box:
        held = self._open[started.id] = self._box(started, running, agent)
        return held

    async def _give_up(self, running: Machine) -> None:
        """What has been made stays for `remove`, which the caller owes; nothing of it runs on."""
        await running.let_go()
        with contextlib.suppress(SandboxError):
            await running.process.end()
        running.process.close()


def find_groups(places: Places) -> tuple[Tree | None, str]:
    return find_tree(f"skerry-{places.tag}", controllers=(*CONTROLLERS, "blkio"))


async def sweep(places: Places) -> None:
    """End and remove all that an engine of another kind left where it was."""
    if not places.data.is_dir():
        return
    tree, problem = find_groups(places)
    if tree is None:
        raise EngineUnavailable(problem)
    for name in sorted({*detached.names(places.processes), *tree.names()}):
        await monitor.remove(name, records=places.processes, tree=tree)
    for directory in (places.run, places.data):
        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
    tree.remove()


def require_root() -> None:
    """Raises `EngineUnavailable`."""
    if os.geteuid() != 0:
        raise EngineUnavailable("microVMs need root: each gets a user id, groups and a tap of its own")
