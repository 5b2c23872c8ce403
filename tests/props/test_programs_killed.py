"""kill -9 of the agent at any step, whatever else happens: the next one finds everything, and nothing is left or done twice."""

import asyncio
import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.core.machines.instance import Backoff
from skerry.core.types.ids import InstanceId
from skerry.core.types.program import Program
from skerry.core.types.slices import NodeInstance
from skerry.ports.runtime import RuntimeFault
from skerry.services.node.programs.runtime import ProgramRuntime
from skerry.services.node.programs.settings import ProgramSettings
from skerry.testing.contracts.runtime import find
from skerry.testing.machine.agentry import Agentry
from skerry.testing.machine.machine import Behaviour, SimulatedMachine
from skerry.testing.machine.node import program_runtime
from skerry.testing.programs import image, program_instance
from skerry.testing.virtual_loop import run_virtual

WANTED = (
    program_instance("web"),
    program_instance("sleepy", Program(image=image("sleepy"), port=80, asleep_after_s=2)),
    program_instance("worker", Program(image=image("worker"))),
)
SETTLE_S = 120
QUIET_LOOKS = 10
SETTINGS = ProgramSettings(backoff=Backoff(first_ms=200, max_ms=2000), look_every_ms=500)


class Story:
    """A machine, the agents of it one after the other, and what is wanted of them."""

    def __init__(self) -> None:
        self.machine = SimulatedMachine(usual=Behaviour(opens_ms=7))
        self.machine.on_point = self._dies
        self.wanted: dict[InstanceId, NodeInstance] = {}
        self.addresses: dict[InstanceId, str] = {}
        self.snapshots: list[str] = []
        self.kill_at = -1
        self.tasks: list[asyncio.Task[None]] = []
        self.users: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        self.hold = Agentry(self.machine)
        self.runtime: ProgramRuntime | None = None
        runtime = program_runtime(self.hold, settings=SETTINGS)
        self.tasks = [asyncio.ensure_future(self._live(runtime))]

    async def kill(self) -> None:
        self.hold.kill()
        for task in asyncio.all_tasks() - {asyncio.current_task(), *self.users}:
            task.cancel()
        await asyncio.sleep(0.05)

    async def _live(self, runtime: ProgramRuntime) -> None:
        """As an agent does: what runs is made equal to what is wanted."""
        await runtime.attach()
        self.runtime = runtime
        busy: dict[InstanceId, asyncio.Task[None]] = {}
        while True:
            seen = {one.id: one for one in runtime.observe()}
            for name in {*seen, *self.wanted} - busy.keys():
                if name in self.wanted and name not in seen:
                    busy[name] = asyncio.ensure_future(self._tried(runtime.start(self.wanted[name])))
                elif name not in self.wanted:
                    busy[name] = asyncio.ensure_future(self._tried(runtime.stop(name, grace_ms=50)))
            busy = {name: task for name, task in busy.items() if not task.done()}
            here = {one.id: one.address for one in seen.values() if one.address is not None and one.state != "stopping"}
            for name, address in here.items():
                assert self.addresses.get(name, address) == address, "its address changed"
            self.addresses = here
            await asyncio.sleep(0.03)

    async def _tried(self, work: object) -> None:
        try:
            await work  # pyright: ignore[reportGeneralTypeIssues]
        except RuntimeFault:
            await asyncio.sleep(0.2)

    def _dies(self, name: str, number: int) -> bool:
        return number == self.kill_at

    async def ask(self, address: str) -> None:
        with contextlib.suppress(ConnectionRefusedError):
            await self.machine.request(address)

    async def do(self, action: str, which: int, more: int) -> None:
        instance = WANTED[which]
        match action:
            case "want":
                self.wanted[instance.id] = instance
            case "drop":
                self.wanted.pop(instance.id, None)
            case "kill":
                self.kill_at = self.machine.points + 1 + more % 40
            case "kill now":
                await self.kill()
                await self.open()
            case "crash" if instance.id in self.machine.boxes:
                self.machine.crash(instance.id)
            case "power":
                await self.kill()
                self.machine.power_off()
                await self.open()
            case "ask" if instance.id in self.addresses:
                self.users.add(asyncio.ensure_future(self.ask(self.addresses[instance.id])))
            case "pause" | "resume" | "snapshot" | "restore" if self.runtime is not None and self.hold.alive:
                asyncio.ensure_future(self._tried(self._by_hand(self.runtime, action, instance)))  # noqa: RUF006
            case "busy":
                self.machine.busy_mounts = more % 3
            case _:
                pass
        await asyncio.sleep(more % 7 / 100)
        if not self.hold.alive:
            await self.kill()
            await self.open()

    async def _by_hand(self, runtime: ProgramRuntime, action: str, instance: NodeInstance) -> None:
        match action:
            case "pause":
                await runtime.pause(instance.id)
            case "resume":
                await runtime.resume(instance.id)
            case "snapshot":
                self.snapshots.append(await runtime.snapshot(instance.id))
            case "restore" if self.snapshots and instance.id in self.wanted:
                await runtime.clone(self.snapshots[-1], instance)
            case _:
                pass

    async def heal(self) -> None:
        self.machine.on_point = lambda name, number: False
        self.machine.busy_mounts = 0
        if not self.hold.alive:
            await self.kill()
            await self.open()
        async with asyncio.timeout(SETTLE_S):
            quiet = 0
            while quiet < QUIET_LOOKS:
                await asyncio.sleep(0.1)
                quiet = quiet + 1 if self._settled() else 0
                if self.runtime is not None:
                    for one in self.runtime.observe():
                        if one.state == "paused":
                            await self._tried(self.runtime.resume(one.id))

    def _settled(self) -> bool:
        if self.runtime is None or {one.id for one in self.runtime.observe()} != self.wanted.keys():
            return False
        return all(one.state in ("running", "dead") for one in self.runtime.observe())

    def check(self) -> None:
        """What is there is what is seen, once."""
        machine, runtime = self.machine, self.runtime
        assert runtime is not None
        assert machine.violations == []
        running = {name for name in self.wanted if (one := find(runtime, name)) and one.state == "running"}
        assert {name for name, box in machine.boxes.items() if box.ended is None} >= running
        assert machine.namespaces.keys() == self.wanted.keys()
        assert {name for kind, name in machine.records if kind == "instances"} == self.wanted.keys()
        assert machine.mounts.keys() <= self.wanted.keys()
        assert set(machine.logs) <= self.wanted.keys()
        assert {name for kind, name in machine.records if kind == "snapshots"} == machine.snapshots.keys()


ACTIONS = (
    "want",
    "want",
    "drop",
    "kill",
    "kill",
    "kill now",
    "crash",
    "power",
    "ask",
    "pause",
    "resume",
    "snapshot",
    "restore",
    "busy",
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, len(WANTED) - 1), st.integers(0, 100)), min_size=1, max_size=25)
)
def test_the_next_agent_makes_it_good(actions: list[tuple[str, int, int]]) -> None:
    async def told() -> None:
        story = Story()
        await story.open()
        for action in actions:
            await story.do(*action)
        await story.heal()
        story.check()
        for task in story.tasks:
            assert not task.done(), task.exception()
        for name in list(story.wanted):  # who asks now is answered: those that sleep are woken
            if name in story.addresses:
                assert await story.machine.request(story.addresses[name]) == 200
        story.wanted.clear()
        await story.heal()
        runtime = story.runtime
        assert runtime is not None
        await runtime.aclose(stop_instances=True)
        assert story.machine.left() == []
        assert story.machine.violations == []
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    run_virtual(told())


def test_every_point_of_a_start_and_a_stop() -> None:
    """Killed at each point in turn, until a whole life is over without reaching it."""
    killed = 0
    for at in range(1, 400):
        if not _killed_once(at):
            break
        killed = at
    assert 30 < killed < 399


def _killed_once(at: int) -> bool:
    async def told() -> bool:
        story = Story()
        story.kill_at = at
        await story.open()
        for want in (True, False):
            story.wanted = {WANTED[0].id: WANTED[0]} if want else {}
            async with asyncio.timeout(SETTLE_S):
                while not (story.hold.alive and story._settled()):
                    await story.do("wait", 0, 3)
            story.check()
        dead = story.machine.points >= at
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        return dead

    return run_virtual(told())
