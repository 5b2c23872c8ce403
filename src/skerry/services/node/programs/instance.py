"""One program: its process, its address and its life (`core.machines.instance`).

The life decides; this executes: it walks the steps of a start and tells the life what became of them. Every task has the
instance as its owner and ends with it.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import structlog
from msgspec.structs import replace

from skerry.aio.tasks import cancel
from skerry.core.machines import instance as machine
from skerry.core.machines import strains
from skerry.core.machines.instance import Event, Life
from skerry.core.machines.strains import Strained
from skerry.core.types.slices import ObservedInstance
from skerry.core.types.usage import Standing
from skerry.ports.runtime import NoSuchInstance
from skerry.ports.sandbox import Exit, Sandbox, SandboxError, SandboxLimits, SandboxStats
from skerry.services.node.programs import reasons
from skerry.services.node.programs.gate import Gate
from skerry.services.node.programs.health import Doctor
from skerry.services.node.programs.records import Kept
from skerry.services.node.programs.settings import Ground
from skerry.services.node.programs.spec import limits_of
from skerry.services.node.programs.steps import LAUNCHED, PLACED, Start, undo

log = structlog.get_logger()

LAST_WORDS_BYTES = 2048
LIVING = frozenset(("starting", "running", "asleep", "paused"))
"""In these there is, or was a moment ago, a process."""


class ProgramInstance:
    """`save` keeps the record durably, `changed` says that `observed` differs."""

    def __init__(self, ground: Ground, kept: Kept, save: Callable[[Kept], None], changed: Callable[[], None]) -> None:
        self.kept = kept
        self.sandbox: Sandbox | None = None
        self.stats = SandboxStats()
        self._still = 0  # how many keep it from answering
        self._strained = Strained()
        self.ready_at_ms = 0  # of this agent's monotonic clock: when it was last seen to become ready
        self._ground = ground
        self._save = save
        self._changed = changed
        self._start = Start(ground, kept)  # its network's half is used by every process
        self._gate = Gate(ground.network, ground.clock, self.id, closed=kept.program().port is None)
        self._work: asyncio.Task[None] | None = None  # starts a process and stays with it
        self._ending: asyncio.Task[None] | None = None  # ends one that is not wanted for now
        self._restarting = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._dirty = False  # an earlier agent may have left something of a process
        self._doing = ""
        self._ended_for = ""  # the node's own reason for an end that is under way

    @property
    def id(self) -> str:
        return self.kept.instance.id

    @property
    def life(self) -> Life:
        return self.kept.life

    @property
    def leaving(self) -> bool:
        return self.life.state == "stopping"

    # Coming and going.

    async def place(self) -> None:
        """Give it its network and its address: the same ones, if it had any. Raises the ports' errors."""
        for step in PLACED:
            await step.do(self._start)
        if self._start.address != self.kept.address:
            self._keep(replace(self.kept, address=self._start.address))
        self._own(self._gate.run())

    def begin(self) -> None:
        self.feed(machine.Launched())

    def adopt(self, sandbox: Sandbox | None) -> None:
        """Go on with what an earlier agent left: its process, if it lives."""
        state = self.life.state
        self._dirty = True
        if sandbox is not None and state in LIVING:
            self.sandbox = sandbox
            self.measure()
            self._strained = strains.adopted(self.stats.against(limits_of(self.kept)))
            self._work = self._own(self._run(sandbox) if state == "starting" else self._stay(sandbox))
            if state != "starting":
                self.ready_at_ms = self._ground.clock.monotonic_ms()
                self._gate.wish("open")
        elif state == "starting":
            self.feed(machine.Launched())
        elif state in LIVING:
            self.feed(machine.Exited(reason="it ended while nobody looked after it"))
        elif state == "backoff":
            self.feed(machine.Due())
        elif state == "dead":
            self._gate.wish("hold")
        else:  # failed, done
            self._gate.wish("refuse", self.life.detail)

    async def remove(self, *, grace_ms: int) -> None:
        """End it and leave nothing: idempotent, and right after half a start."""
        paused = self.life.state == "paused"
        self.feed(machine.Stop())
        await cancel(self._tasks)
        if self.sandbox is not None and not paused:
            await self._stop(self.sandbox, grace_ms)
        self.sandbox = None
        await undo(self._ground, self.kept, (*PLACED, *LAUNCHED))
        self._ground.files.remove(self.id)

    async def detach(self) -> None:
        """Stop looking after it; what runs goes on running."""
        await cancel(self._tasks)

    def abandon(self) -> None:
        for task in self._tasks:
            task.cancel()

    # Events.

    def feed(self, event: Event) -> None:
        before = self.life
        life, commands = machine.step(before, event, self._ground.clock.now_ms(), self._ground.settings.backoff)
        if life != before:
            self._keep(replace(self.kept, life=life))
        for command in commands:
            self._execute(command)
        self._changed()

    def ring(self) -> None:
        """Somebody waits at its address."""
        self.feed(machine.Demand())

    def drop(self, reason: str) -> None:
        """No process until somebody asks for it."""
        self._ground.files.note(self.id, f"ended until a request comes: {reason}")
        self.feed(machine.Dropped(reason=reason))

    async def pause(self) -> None:
        if self.life.state != "paused":
            await self.running().pause()
            self.feed(machine.Paused())

    async def resume(self) -> None:
        if self.life.state == "paused":
            await self.running().resume()
            self.feed(machine.Resumed())

    async def restart_from(self, snapshot: str) -> None:
        """Whatever its process is, the next one goes on from the snapshot."""
        await asyncio.wait((self._own(self._restart_from(snapshot)),))

    async def _restart_from(self, snapshot: str) -> None:
        async with self._restarting:
            if self._ending is not None:
                await self._hurry(self._ending)
            await self._go_back(snapshot)

    async def _go_back(self, snapshot: str) -> None:
        self._keep(replace(self.kept, snapshot=snapshot, life=machine.begin(self._ground.clock.now_ms(), self.life.restart)))
        await self._gate.settle("hold")
        await cancel((self._work,))
        await self._end_process(grace_ms=0)
        self.begin()

    @property
    def can_squeeze(self) -> bool:
        """Its engine can; and a Worker is squeezed where Workers sleep."""
        version = self.kept.instance.version
        engine = self._ground.engines.get(version.isolation)
        able = engine is not None and "squeeze" in engine.facts.abilities
        return able and (version.worker is None or self._ground.walled.sleeps_after_ms(version) is not None)

    def fall_asleep(self) -> None:
        """`squeeze`, without waiting for it."""
        self._own(self._fall_asleep())

    async def _fall_asleep(self) -> None:
        try:
            await self.squeeze()
        except (SandboxError, OSError) as error:  # it has just ended, or stays awake
            log.warning("not_squeezed", instance=self.id, error=str(error))

    async def squeeze(self) -> None:
        """Move its memory out; what it touches comes back by itself."""
        sandbox = self.sandbox
        if sandbox is not None and self.life.state == "running":
            await sandbox.squeeze()
            self.measure()
            self.feed(machine.Squeezed())

    def saw_activity(self) -> None:
        self.feed(machine.Activity())

    async def resize(self, limits: SandboxLimits) -> None:
        """Now, and for its next processes."""
        if self.sandbox is not None:
            await self.sandbox.resize(limits)
        self._keep(replace(self.kept, limits=limits))

    async def throttle(self, standing: Standing) -> None:
        """For now: its next process runs as any other again."""
        if self.sandbox is not None:
            await self.sandbox.resize(replace(limits_of(self.kept), cpu_standing=standing))

    async def end_for(self, reason: str) -> None:
        """As a crash with that reason."""
        self._ground.files.note(self.id, f"ended: {reason}")
        sandbox = self.running()
        self._ended_for = reason
        await sandbox.stop(grace_ms=0)

    def running(self) -> Sandbox:
        """Raises `NoSuchInstance` when there is no process."""
        if self.sandbox is None or self.life.state not in LIVING:
            detail = f": {self.life.detail}" if self.life.detail else ""
            raise NoSuchInstance(f"{self.id} has no process, it is {self.life.state}{detail}")
        return self.sandbox

    def measure(self) -> None:
        self.stats = self.sandbox.stats() if self.sandbox is not None else SandboxStats()

    def look(self, *, log_lost: bool = False, ran_out: bool = False) -> None:
        """Measure it, and see which of its limits it has come to."""
        self.measure()
        before = self._strained
        seen = self.stats.against(limits_of(self.kept), log_lost=log_lost, ran_out=ran_out)
        self._strained = strains.look(before, seen, self._ground.clock.now_ms(), self._ground.settings.strains)
        for strain in self._strained.since(before):
            log.warning("limit_reached", instance=self.id, limit=strain.limit, text=strain.text)
        if self._strained.strains != before.strains:
            self._changed()

    def observed(self) -> ObservedInstance:
        version, life = self.kept.instance.version, self.life
        observed = ObservedInstance(
            id=self.kept.instance.id,
            account=version.account,
            app=version.app,
            version=version.id,
            state=life.state,
            since_ms=life.since_ms,
            pid=self.sandbox.pid if self.sandbox is not None else None,
            address=self.kept.address,
            restarts=life.restarts,
            memory_bytes=self.stats.memory_bytes,
            detail=life.detail or (self._doing if life.state == "starting" else ""),
            strains=self._strained.strains,
        )
        return self._ground.walled.seen(observed)

    # Inside.

    def _keep(self, kept: Kept) -> None:
        self.kept = self._start.kept = kept
        self._save(kept)

    def _execute(self, command: machine.Command) -> None:
        match command:
            case machine.Launch():
                self._work = self._own(self._run(None))
            case machine.End():
                self._ending = self._own(self._rest(self._work))
                self._work = None
            case machine.Wait(delay_ms=delay_ms):
                self._own(self._wait(delay_ms))
            case machine.Refuse():
                self._gate.wish("refuse", self.life.detail)
            case machine.Hold() | machine.Watch():
                self._gate.wish("hold")
            case machine.Remove():
                pass  # `remove` does it

    async def _run(self, adopted: Sandbox | None) -> None:
        """Start a process, or go on with one that is being started, and stay with it until it ends."""
        try:
            sandbox = adopted or await self._launch()
            await self._ready(sandbox)
        except reasons.EndedEarly as error:
            await self._over(self._ended_early(error.ended))
        except Exception as error:  # whatever it is, it is a reason, and the next try is the life's to decide
            await self._over(reasons.failed_start(error))
        else:
            self._became_ready()
            await self._stay(sandbox)

    async def _launch(self) -> Sandbox:
        if self._ending is not None:
            await self._hurry(self._ending)
        if self._dirty:
            await undo(self._ground, self.kept, LAUNCHED)
        self._dirty = True
        for step in LAUNCHED:
            self._say(step.doing)
            await step.do(self._start)
        sandbox = self._start.sandbox
        assert sandbox is not None
        self.sandbox = sandbox
        self._say("waiting until it answers")
        return sandbox

    async def _ready(self, sandbox: Sandbox) -> None:
        """Healthy, and open to whoever waits. Raises `EndedEarly` and `NeverReady`."""
        doctor = self._doctor()
        ended, ready = asyncio.ensure_future(self._end_of(sandbox)), asyncio.ensure_future(doctor.ready(sandbox))
        try:
            await asyncio.wait((ended, ready), return_when=asyncio.FIRST_COMPLETED)
            if not ready.done():
                raise reasons.EndedEarly(ended.result())
            ready.result()
        finally:
            await cancel((ended, ready))
        await self._gate.settle("open")

    def _became_ready(self) -> None:
        self._doing = ""
        self.ready_at_ms = self._ground.clock.monotonic_ms()
        if self.kept.snapshot is not None:
            self._keep(replace(self.kept, snapshot=None))
        self.measure()
        self.feed(machine.Ready())

    async def _stay(self, sandbox: Sandbox) -> None:
        """Until it ends by itself, or is ended since it is not healthy."""
        sick = asyncio.ensure_future(self._doctor().sick(sandbox, awake=self._awake))
        ended = asyncio.ensure_future(self._end_of(sandbox))
        try:
            await asyncio.wait((ended, sick), return_when=asyncio.FIRST_COMPLETED)
            verdict = self._ended(ended.result()) if ended.done() else machine.Exited(reason=sick.result())
        finally:
            await cancel((ended, sick))
        await self._over(verdict)

    def _awake(self) -> bool:
        """Asleep it is not asked: the answer would wake it, and whoever comes to it does, if anybody can."""
        asked = ("running",) if self.kept.program().port is not None else ("running", "asleep")
        return self.life.state in asked and not self._still

    @contextlib.contextmanager
    def still(self) -> Generator[None]:
        """Meanwhile it is stopped for our sake: that it answers nothing is no illness."""
        self._still += 1
        try:
            yield
        finally:
            self._still -= 1

    async def _end_of(self, sandbox: Sandbox) -> Exit:
        """Who comes from the first moment on waits, while it is being learnt how it ended."""
        await sandbox.gone()
        self._gate.wish("hold")
        return await sandbox.wait()

    async def _over(self, verdict: machine.Exited | machine.Lacking) -> None:
        """Nobody is led to it any more, nothing of it is left, and then its life goes on."""
        self._doing = ""
        self._ground.files.note(self.id, verdict.reason)
        await self._gate.settle("hold")
        grace_ms = 0 if self.sandbox is None else self.kept.program().stop_grace_ms
        await self._end_process(grace_ms=grace_ms)
        if self._work is asyncio.current_task():  # else it was decided meanwhile to end it
            self.feed(verdict)

    async def _rest(self, work: asyncio.Task[None] | None) -> None:
        """End the process of one that is dropped: who comes from now on waits, who is there is served to the end."""
        await self._gate.settle("hold")
        await cancel((work,))
        await self._end_process(grace_ms=min(self.kept.program().stop_grace_ms, self._ground.settings.drop_grace_ms_max))
        self._changed()

    async def _hurry(self, ending: asyncio.Task[None]) -> None:
        """Somebody waits for the next process: the one that is being ended has no more than a moment for its last words."""
        await asyncio.wait((ending,), timeout=self._ground.settings.hurry_ms / 1000)
        if not ending.done():
            await cancel((ending,))
            await self._end_process(grace_ms=0)

    async def _end_process(self, *, grace_ms: int) -> None:
        """Whoever stayed with it has been cancelled, or calls this: by now `_work` may be about the next process."""
        sandbox = self.sandbox
        if sandbox is not None:
            await self._stop(sandbox, grace_ms)
        await undo(self._ground, self.kept, LAUNCHED)
        self.sandbox, self._dirty = None, False
        self.look()  # the next one counts anew

    async def _stop(self, sandbox: Sandbox, grace_ms: int) -> None:
        with contextlib.suppress(SandboxError):  # it has ended, or is ended by force when its traces are removed
            await sandbox.stop(grace_ms=grace_ms)

    async def _wait(self, delay_ms: int) -> None:
        await self._ground.clock.sleep_ms(delay_ms)
        self.feed(machine.Due())

    def _ended_early(self, how: Exit) -> machine.Exited:
        """A Worker's engine tells a fault of its code, which another try would not mend."""
        said = reasons.since_note(self._ground.files.log_end(self.id, bytes_max=LAST_WORDS_BYTES))
        fault = self._ground.walled.fault(self.kept.instance.version, said) if how.code == 1 else ""
        return machine.Exited(reason=fault, own_fault=True) if fault else self._ended(how, before="before it was ready")

    def _ended(self, how: Exit, *, before: str = "") -> machine.Exited:
        if self._ended_for:
            how, self._ended_for = Exit(code=how.code, detail=self._ended_for), ""
            return reasons.ended(how, memory_mib_max=0, said="", before=before)
        self.look(ran_out=how.out_of_memory)
        said = self._ground.files.log_end(self.id, bytes_max=LAST_WORDS_BYTES)
        return reasons.ended(how, memory_mib_max=limits_of(self.kept).memory_mib_max, said=said, before=before)

    def _doctor(self) -> Doctor:
        network = self._start.network
        assert network is not None, "it was placed"
        return Doctor(self.kept.program(), network.address, self._ground.prober, self._ground.clock)

    def _say(self, doing: str) -> None:
        self._doing = doing
        self._changed()

    def _own(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
