"""Gives those who yield their turns on the CPUs (`core.machines.turns`): holds some of them for a moment, by the runtime.

    grants of the market ──► seat ──► runtime.hold ◄── end_turn, 4 to 20 times a second while there are turns

Who is held stays so when the agent dies: with next to no CPU until the next agent's first look, which says a word about each.
"""

from collections.abc import Collection, Mapping

import structlog

from skerry.core.machines.market import Grant
from skerry.core.machines.turns import Turns, TurnSettings, seat, turn, turn_ms
from skerry.ports.clock import Clock
from skerry.ports.pressure import Gauge
from skerry.ports.runtime import Runtime, RuntimeFault
from skerry.ports.sandbox import SandboxError

log = structlog.get_logger()

REFUSALS = (RuntimeFault, SandboxError, OSError)


class TurnKeeper:
    """`end_if_due` is to be called at `due_ms` (monotonic) or a little later, if there is such a time."""

    def __init__(self, runtime: Runtime, gauge: Gauge, clock: Clock, settings: TurnSettings) -> None:
        self._runtime = runtime
        self._gauge = gauge
        self._clock = clock
        self._settings = settings
        self._turns = Turns()
        self._pids: Mapping[str, int] = {}
        self._held: dict[str, int] = {}  # by instance, the process that is held
        self._began_ms = 0
        self._idle_us = 0
        self._cpu_us: dict[str, int] = {}  # of those who run, when their turn began
        self._waited_us: dict[str, int] = {}
        self.due_ms: int | None = None

    @property
    def starved(self) -> frozenset[str]:
        return self._turns.starved

    def about(self, name: str) -> str:
        """To be added to the reason why it yields."""
        others = len({*self._turns.running, *self._turns.held} - {name})
        return f", in turn with {others} others" if self._turns.held and name in {*self._turns.running, *self._turns.held} else ""

    async def seat(self, grants: Collection[Grant], pids: Mapping[str, int], *, rest_millicores: int | None) -> None:
        """After each look. `pids`: of all that run."""
        self._pids = pids
        self._held = {name: pid for name, pid in self._held.items() if pids.get(name) == pid}
        before, wanting = self._turns, {one.id for one in grants if one.presses}
        self._turns = seat(before, wanting, self._settings, rest_millicores=rest_millicores)
        await self._tell()
        if self._turns.running != before.running or self.due_ms is None:
            self._begin()

    async def end_if_due(self) -> None:
        if self.due_ms is not None and self._clock.monotonic_ms() >= self.due_ms:
            await self.end_turn()

    async def end_turn(self) -> None:
        now_ms, idle_us = self._clock.monotonic_ms(), self._gauge.read().cpu_idle_us
        elapsed_ms = max(1, now_ms - self._began_ms)
        used_us = {name: self._used_us(name, elapsed_ms) for name in self._turns.running}
        idle_us -= self._idle_us
        self._turns = turn(self._turns, used_us, elapsed_ms=elapsed_ms, idle_us=max(0, idle_us), settings=self._settings)
        await self._tell()
        self._begin()

    async def release(self, name: str, *, known: bool) -> None:
        """Before another word about it: who is held can do nothing that is asked. Not `known`: an earlier agent may hold it."""
        if name in self._held or not known:
            await self._hold(name, held=False)

    async def aclose(self) -> None:
        """Nobody is held by an agent that is not there."""
        self._turns, self.due_ms = Turns(), None
        for name in tuple(self._held):
            await self._hold(name, held=False)

    def _begin(self) -> None:
        length_ms = turn_ms(self._turns, self._settings)
        self._began_ms = self._clock.monotonic_ms()
        self.due_ms = None if length_ms is None else self._began_ms + length_ms
        if length_ms is not None:
            self._idle_us = self._gauge.read().cpu_idle_us
            self._cpu_us = {name: self._cpu_of(name) for name in self._turns.running}
            self._waited_us = {name: self._waited_of(name) for name in self._turns.running}

    async def _tell(self) -> None:
        """Who has had its turn first: for a moment fewer run, not more."""
        held = frozenset(self._turns.held)
        for name in self._turns.held:
            if name not in self._held and name in self._pids:
                await self._hold(name, held=True)
        for name in tuple(self._held):
            if name not in held:
                await self._hold(name, held=False)

    async def _hold(self, name: str, *, held: bool) -> None:
        """One that cannot be held goes on; one that cannot be let go is tried again at the next turn."""
        try:
            await self._runtime.hold(name, held)
        except REFUSALS as error:
            log.debug("not_held", instance=name, held=held, error=str(error))
            return
        if held:
            self._held[name] = self._pids[name]
        else:
            self._held.pop(name, None)

    def _used_us(self, name: str, elapsed_ms: int) -> int:
        """What it used of its turn, and waited for the CPU if that was little."""
        used_us = self._cpu_of(name) - self._cpu_us.get(name, 0)
        if used_us * 100 >= elapsed_ms * 1000 * self._settings.eased_percent:
            return used_us
        return used_us + self._waited_of(name) - self._waited_us.get(name, 0)

    def _cpu_of(self, name: str) -> int:
        try:
            return self._runtime.stats(name).cpu_us
        except REFUSALS:
            return 0

    def _waited_of(self, name: str) -> int:
        return self._gauge.waited_us(self._pids.get(name, 0)) or 0
