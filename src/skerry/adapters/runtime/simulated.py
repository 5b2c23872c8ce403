"""A runtime without processes, on the `Clock` port, with faults by script.

The machine (`SimulatedMachine`) outlives the runtime, as processes outlive an agent: a second `SimulatedRuntime` on it
attaches to what the first one started. Instances follow the same machine as the real ones (`core.machines.instance`).
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import msgspec

from skerry.aio.changes import Changes
from skerry.core.machines import instance as machine
from skerry.core.machines.instance import Backoff, Event, Life
from skerry.core.types.ids import Digest, InstanceId, VersionId
from skerry.core.types.slices import NodeInstance, ObservedInstance
from skerry.ports.clock import Clock
from skerry.ports.links import LinkError
from skerry.ports.runtime import Capabilities, NoSuchInstance, Plain, Unavailable
from skerry.ports.sandbox import SandboxStats

FIRST_PID, FIRST_PORT = 1000, 20_000


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a simulated instance answers."""

    status: int
    version: VersionId | None = None


@dataclass
class Faults:
    """What goes wrong, by version or by the content of its main module. Change it while it runs.

    `start_ms`: how long a start takes (else `start_ms_default`). `own_fault`: the text of a start-up error.
    `crash_at_start`: the text of a crash before it is ready. `unavailable`: the machine has no room; the text says so.
    """

    start_ms_default: int = 20
    start_ms: dict[VersionId, int] = field(default_factory=dict[VersionId, int])
    own_fault: dict[VersionId | Digest, str] = field(default_factory=dict[VersionId | Digest, str])
    crash_at_start: dict[VersionId | Digest, str] = field(default_factory=dict[VersionId | Digest, str])
    unavailable: str = ""


@dataclass
class _Cell:
    """One instance on the machine. `process` counts its processes, so that a late event of an old one is known."""

    instance: NodeInstance
    life: Life
    address: str
    pid: int | None = None
    process: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self) -> None:
        """Wake whoever waits now; whoever waits later waits for the next change."""
        self.changed.set()
        self.changed = asyncio.Event()


@dataclass
class SimulatedMachine:
    """What stays when an agent is killed: processes and their addresses."""

    address: str = "127.0.0.1"
    faults: Faults = field(default_factory=Faults)
    cells: dict[InstanceId, _Cell] = field(default_factory=dict[InstanceId, _Cell])
    blobs: set[Digest] = field(default_factory=set[Digest])  # on its disk
    crashed: dict[InstanceId, str] = field(default_factory=dict[InstanceId, str])  # not yet noticed by a runtime
    pids: "itertools.count[int]" = field(default_factory=lambda: itertools.count(FIRST_PID))
    ports: "itertools.count[int]" = field(default_factory=lambda: itertools.count(FIRST_PORT))

    def crash(self, instance_id: InstanceId, reason: str = "killed") -> None:
        """The process ends now; nobody is told but by looking."""
        cell = self.cells[instance_id]
        if cell.pid is None:
            return
        cell.pid = None
        cell.process += 1
        self.crashed[instance_id] = reason
        cell.tell()

    def power_off(self) -> None:
        """Every process of the machine ends, its agent's too (`SimulatedRuntime.abandon`), and nothing of them stays."""
        cells = tuple(self.cells.values())
        self.cells.clear()
        self.crashed.clear()
        for cell in cells:
            cell.pid = None
            cell.process += 1
            cell.tell()


class SimulatedRuntime(Plain):
    """See the port for the contract. `request` stands for a client at the instance's address; `fetch` gets blobs."""

    def __init__(
        self,
        sim: SimulatedMachine,
        clock: Clock,
        *,
        fetch: Callable[[Digest], Awaitable[bytes]],
        backoff: Backoff | None = None,
        can_sleep: bool = True,
    ) -> None:
        self._sim = sim
        self._clock = clock
        self._fetch = fetch
        self._backoff = backoff or Backoff()
        self._can_sleep = can_sleep
        self._changes = Changes()
        self._tasks: set[asyncio.Task[None]] = set()
        self._abandoned = False

    @property
    def capabilities(self) -> Capabilities:
        missing = () if self._can_sleep else (("sleep", "switched off by the script"),)
        return Capabilities(isolation="namespace+uid", limits=True, sleep=self._can_sleep, egress=True, missing=missing)

    async def attach(self) -> None:
        for instance_id, cell in list(self._sim.cells.items()):
            if cell.life.state == "stopping":
                del self._sim.cells[instance_id]
                continue
            self._supervise(cell)
            if cell.life.state in ("starting", "backoff"):
                cell.life = machine.begin(self._clock.now_ms())
                self._feed(cell, machine.Launched())
        self._changes.notify()

    async def start(self, instance: NodeInstance) -> ObservedInstance:
        cell = self._sim.cells.get(instance.id)
        if cell is None:
            if self._sim.faults.unavailable:
                raise Unavailable(self._sim.faults.unavailable)
            address = f"{self._sim.address}:{next(self._sim.ports)}"
            cell = _Cell(instance, machine.begin(self._clock.now_ms()), address)
            self._sim.cells[instance.id] = cell
            self._supervise(cell)
            self._feed(cell, machine.Launched())
        return _observed(cell)

    async def stop(self, instance_id: str, *, grace_ms: int) -> None:
        cell = self._sim.cells.get(InstanceId(instance_id))
        if cell is not None:
            self._feed(cell, machine.Stop())

    async def sleep(self, instance_id: str) -> None:
        cell = self._sim.cells.get(InstanceId(instance_id))
        if cell is not None and self._can_sleep:
            self._feed(cell, machine.Squeezed())

    async def drop(self, instance_id: str, reason: str = "idle") -> None:
        """Let it be dead until a request comes: what policy does where memory is short."""
        self._feed(self._sim.cells[InstanceId(instance_id)], machine.Dropped(reason=reason))

    def observe(self) -> tuple[ObservedInstance, ...]:
        return tuple(_observed(cell) for cell in self._sim.cells.values())

    def changes(self) -> AsyncIterator[None]:
        return self._changes.listen()

    def stats(self, instance_id: str) -> SandboxStats:
        cell = self._cell(instance_id)
        return SandboxStats(memory_bytes=8 << 20, pids=1) if cell.pid is not None else SandboxStats()

    async def logs(self, instance_id: str, *, tail_bytes: int, follow: bool) -> AsyncIterator[bytes]:
        """Every process says hello."""
        cell, read = self._cell(instance_id), 0
        lines = b"hello\n" * cell.process
        if lines[-tail_bytes:]:
            yield lines[-tail_bytes:]
        read = cell.process
        while follow and self._sim.cells.get(cell.instance.id) is cell:
            if cell.process > read:
                yield b"hello\n" * (cell.process - read)
                read = cell.process
            else:
                await cell.changed.wait()

    def _cell(self, instance_id: str) -> _Cell:
        cell = self._sim.cells.get(InstanceId(instance_id))
        if cell is None:
            raise NoSuchInstance(f"{instance_id} is not on this node")
        return cell

    async def request(self, address: str) -> Answer:
        """A request to an instance: waits while it starts, wakes it if need be; 503 if it failed.

        Raises `ConnectionRefusedError` when nothing listens there.
        """
        while True:
            cell = next((cell for cell in self._sim.cells.values() if cell.address == address), None)
            if cell is None:
                raise ConnectionRefusedError(address)
            match cell.life.state:
                case "running":
                    return Answer(status=200, version=cell.instance.version.id)
                case "asleep":
                    self._feed(cell, machine.Activity())
                case "dead":
                    self._feed(cell, machine.Demand())
                case "backoff" | "failed" | "done":
                    return Answer(status=503)
                case "starting" | "stopping" | "paused":
                    await cell.changed.wait()

    def abandon(self) -> None:
        """As kill -9 of the agent: its work ends between two steps, the machine's processes go on."""
        self._abandoned = True
        for task in self._tasks:
            task.cancel()

    async def aclose(self, *, stop_instances: bool) -> None:
        self.abandon()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if stop_instances:
            self._sim.cells.clear()

    def _supervise(self, cell: _Cell) -> None:
        self._spawn(self._notice_exits(cell))

    async def _notice_exits(self, cell: _Cell) -> None:
        """Give the machine's crashes to the life of the instance."""
        while self._sim.cells.get(cell.instance.id) is cell:
            reason = self._sim.crashed.pop(cell.instance.id, None)
            if reason is not None:
                self._feed(cell, machine.Exited(reason=reason))
            await cell.changed.wait()

    def _feed(self, cell: _Cell, event: Event) -> None:
        cell.life, commands = machine.step(cell.life, event, self._clock.now_ms(), self._backoff)
        for command in commands:
            self._execute(cell, command)
        cell.tell()
        self._changes.notify()

    def _execute(self, cell: _Cell, command: machine.Command) -> None:
        match command:
            case machine.Launch():
                cell.process += 1
                self._spawn(self._begin(cell, cell.process))
            case machine.End():
                cell.pid = None
                cell.process += 1
            case machine.Wait(delay_ms=delay_ms):
                self._spawn(self._become_due(cell, delay_ms))
            case machine.Remove():
                self._sim.cells.pop(cell.instance.id, None)
            case machine.Refuse() | machine.Hold() | machine.Watch():
                pass  # `request` looks at the state

    async def _begin(self, cell: _Cell, process: int) -> None:
        try:
            for digest in sorted(cell.instance.version.process_digests() - self._sim.blobs):
                await self._fetch(digest)
                self._sim.blobs.add(digest)
        except LinkError as error:
            if self._is_current(cell, process):
                self._feed(cell, machine.Lacking(reason=f"its files cannot be had: {error}"))
            return
        if self._is_current(cell, process):
            cell.pid = next(self._sim.pids)
            await self._become_ready(cell, process)

    def _is_current(self, cell: _Cell, process: int) -> bool:
        return cell.process == process and self._sim.cells.get(cell.instance.id) is cell

    async def _become_ready(self, cell: _Cell, process: int) -> None:
        faults, version = self._sim.faults, cell.instance.version.id
        await self._clock.sleep_ms(faults.start_ms.get(version, faults.start_ms_default))
        if not self._is_current(cell, process):
            return
        if (reason := _fault(faults.own_fault, cell)) is not None:
            cell.pid = None
            self._feed(cell, machine.Exited(reason=reason, own_fault=True))
        elif (reason := _fault(faults.crash_at_start, cell)) is not None:
            cell.pid = None
            self._feed(cell, machine.Exited(reason=reason))
        else:
            self._feed(cell, machine.Ready())

    async def _become_due(self, cell: _Cell, delay_ms: int) -> None:
        await self._clock.sleep_ms(delay_ms)
        if self._sim.cells.get(cell.instance.id) is cell:
            self._feed(cell, machine.Due())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        if self._abandoned:
            work.close()
            return
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _fault(texts: dict[VersionId | Digest, str], cell: _Cell) -> str | None:
    version = cell.instance.version
    main = [module.digest for module in version.worker.modules[:1]] if version.worker else []
    return next((texts[name] for name in (version.id, *main) if name in texts), None)


def _observed(cell: _Cell) -> ObservedInstance:
    version = cell.instance.version
    return ObservedInstance(
        id=cell.instance.id,
        account=version.account,
        app=version.app,
        version=version.id,
        state=cell.life.state,
        since_ms=cell.life.since_ms,
        pid=cell.pid,
        address=cell.address,
        restarts=cell.life.restarts,
        detail=cell.life.detail,
    )
