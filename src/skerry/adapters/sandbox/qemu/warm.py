"""Machines that wait for their program: launched, loaded and paused, so that whoever is started next does not wait for QEMU.

    a start takes one -> [claim: instance -> machine] -> its log and tap are given to it -> it goes on
                      -> a moment later another is made, if nothing else wants the CPU more

One for each of the images and snapshots that were started last, `machines_max` at most. Nobody knows them but the engine that
made them: it ends them with itself, or when the node needs their memory, and the next one removes what a killed one left. From
the claim on the machine is the instance's, under the name that it has.
"""

import asyncio
import contextlib
import shutil
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import structlog

from skerry.adapters.process import detached
from skerry.adapters.sandbox.qemu.machine import Running
from skerry.adapters.sandbox.qemu.qmp import QmpError
from skerry.adapters.sandbox.qemu.templates import Template
from skerry.ports.sandbox import SandboxError

log = structlog.get_logger()

AFTER_S = 0.5  # a program that was just started comes first


class Kind(NamedTuple):
    """What cannot be changed any more once a machine waits. Templates are told apart by identity."""

    template: Template
    disk: str
    log_bytes_max: int


class Warm:
    """`make` launches one, `erase` removes all of a name."""

    def __init__(
        self, make: Callable[[Kind], Awaitable[Running]], erase: Callable[[str], Awaitable[None]], *, machines_max: int
    ) -> None:
        self._make, self._erase = make, erase
        self._machines_max = machines_max
        self._waiting: OrderedDict[Kind, Running | None] = OrderedDict()  # the last wanted last; None: to be made
        self._dead: list[Running] = []  # they ended while they waited; what is left of them is removed with the next work
        self._work: asyncio.Task[None] | None = None
        self._allowed = True

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(running.process.name for running in self._waiting.values() if running is not None)

    def take(self, kind: Kind) -> Running | None:
        """It is the caller's from now on."""
        found = self._waiting.get(kind)
        if found is None:
            return None
        self._waiting[kind] = None
        if found.process.alive():
            return found
        self._dead.append(found)
        return None

    def want(self, kind: Kind) -> None:
        """Have one for the next start. Returns at once."""
        if self._machines_max < 1 or not self._allowed:
            return
        self._waiting.setdefault(kind, None)
        self._waiting.move_to_end(kind)
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._fill())

    async def settled(self) -> None:
        """Nothing is being made, or about to be."""
        if self._work is not None:
            await asyncio.wait((self._work,))

    async def allow(self, allowed: bool) -> int:
        """Whether there may be any, from now on; how many were ended for that."""
        self._allowed = allowed
        return 0 if allowed else await self._clear()

    async def aclose(self) -> None:
        await self._clear()

    async def _clear(self) -> int:
        if self._work is not None:
            self._work.cancel()
            await asyncio.wait((self._work,))
        ended = len(self.names)
        gone = (*self._waiting.values(), *self._dead)
        self._waiting.clear()  # before anything is awaited: nobody takes one that is about to end
        self._dead.clear()
        for running in gone:
            await self._end(running)
        return ended

    async def _fill(self) -> None:
        await asyncio.sleep(AFTER_S)
        dead, self._dead = self._dead, []
        for running in dead:
            await self._end(running)
        while len(self._waiting) > self._machines_max:
            _, running = self._waiting.popitem(last=False)
            await self._end(running)
        while (kind := next((kind for kind, running in self._waiting.items() if running is None), None)) is not None:
            try:
                made = await self._make(kind)
            except (SandboxError, QmpError, OSError, TimeoutError) as error:
                log.warning("warm_machine_not_made", error=str(error))
                self._waiting.pop(kind, None)
            else:
                self._waiting[kind] = made

    async def _end(self, running: Running | None) -> None:
        """One that does not end is among the dead: the next work tries again, or the next engine."""
        if running is None:
            return
        await running.let_go()
        running.process.close()
        try:
            await self._erase(running.process.name)
        except (OSError, SandboxError) as error:
            log.warning("warm_machine_left", name=running.process.name, error=str(error))
            self._dead.append(running)


def hand_over(waiting: Path, log: Path) -> None:
    """The log of a machine that waited becomes its instance's, behind what is in that already. Raises `OSError`."""
    with contextlib.suppress(FileNotFoundError), log.open("rb") as old, waiting.open("ab") as new:
        shutil.copyfileobj(old, new)
    waiting.rename(log)


class Claims:
    """Which machine that waited has become whose: a file for each, named after the instance."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._machines: dict[str, str] = {}

    def load(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for half in self._directory.glob(".*"):
            half.unlink()
        self._machines = {path.name: path.read_text() for path in self._directory.iterdir()}

    def machine_of(self, sandbox_id: str) -> str:
        return self._machines.get(sandbox_id, sandbox_id)

    def claim(self, sandbox_id: str, machine: str) -> None:
        """Raises `OSError`."""
        detached.write_private(self._directory / sandbox_id, machine.encode())
        self._machines[sandbox_id] = machine

    def forget(self, sandbox_id: str) -> None:
        """Once the machine is gone. Idempotent."""
        if self._machines.pop(sandbox_id, None) is not None:
            (self._directory / sandbox_id).unlink(missing_ok=True)

    def ids(self) -> tuple[str, ...]:
        return tuple(sorted(self._machines))
