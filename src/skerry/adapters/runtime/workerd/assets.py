"""Static assets of a node's apps: one workerd without any tenant's code, one listening socket per app version.

A change of what is served makes a new process on the same sockets, and the old one finishes what it has (see
`keeper`). Changes that come together make one new process. Settings that workerd refuses cannot stop the others: the
process names the service that it stumbles over, and that one is left out.
"""

import asyncio
import os
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from skerry.adapters.cgroup.base import Limits
from skerry.adapters.runtime.workerd.config import assets_config, encode_config
from skerry.adapters.runtime.workerd.keeper import Keeper
from skerry.adapters.runtime.workerd.listeners import Gate
from skerry.adapters.runtime.workerd.process import Fleet, Program, SandboxedProcess
from skerry.adapters.runtime.workerd.sandbox import Sandbox
from skerry.adapters.runtime.workerd.settings import MIB, Settings
from skerry.aio.tasks import cancel
from skerry.kit.hashing import content_digest
from skerry.kit.record import Record
from skerry.ports.runtime import Unavailable

NAME = "assets"
MEMORY_BYTES_MAX = 1024 * MIB  # files pass through it; 1000 apps take 52 MB
CPU_SHARES = 65_536
PIDS_MAX = 64
TOGETHER_S = 0.02  # changes within this time make one new process
RETRY_S = 2.0
TREES_INSIDE = "/trees"
_CULPRIT = re.compile(r"service (?:files|front)-(\w+): (.*)", re.DOTALL)

Status = Literal["pending", "serving", "failed"]


class Served(Record):
    """One app version's assets as the process has to know them; `upstream` is the address of its worker, host:port."""

    key: str
    directory: str
    rules: str
    upstream: str | None = None


class Front:
    """The sockets of one app: `inbound` for users, `binding` for its own `env.ASSETS` (None: it has no worker).

    `served` is known once its files are there.
    """

    def __init__(self, key: str, inbound: socket.socket, binding: socket.socket | None) -> None:
        self.key = key
        self.served: Served | None = None
        self.gate = Gate(inbound, lambda: None)
        self.binding = binding
        self.status: Status = "pending"
        self.detail = ""
        self.since_ms = time.time_ns() // 1_000_000

    def turn(self, status: Status, detail: str = "") -> None:
        if status != self.status:
            self.since_ms = time.time_ns() // 1_000_000
        if status == "failed" and self.status != "failed":
            self.gate.refuse()
        self.status, self.detail = status, detail

    def close(self) -> None:
        self.gate.close()
        if self.binding is not None:
            self.binding.close()


class AssetsHost:
    """`changed` is called when the status of a front changes."""

    def __init__(self, fleet: Fleet, settings: Settings, changed: Callable[[], None]) -> None:
        self._fleet = fleet
        self._settings = settings
        self._changed = changed
        self._fronts: dict[str, Front] = {}
        self._keeper = Keeper(fleet, settings, NAME, self._program)
        self._dirty = asyncio.Event()
        self._served_digest = ""
        self._loop: asyncio.Task[None] | None = None

    def begin(self, process: SandboxedProcess | None) -> None:
        """Start, with what was put so far. `process`: an earlier agent's, which goes on if it serves just that."""
        if process is not None:
            self._served_digest = process.address
            self._keeper.adopt(process)
        self._loop = asyncio.create_task(self._keep_up())
        self._dirty.set()

    def put(self, front: Front) -> None:
        """Serve it, soon; its `status` tells when. `front.served` is set."""
        self._fronts[front.key] = front
        self._dirty.set()

    def drop(self, key: str) -> None:
        """Serve it no more. Idempotent."""
        if self._fronts.pop(key, None) is not None:
            self._dirty.set()

    async def aclose(self, *, stop: bool) -> None:
        await cancel((self._loop,))
        await self._keeper.aclose(stop=stop)
        self._fronts.clear()

    async def _keep_up(self) -> None:
        while True:
            await self._dirty.wait()
            await asyncio.sleep(TOGETHER_S)
            self._dirty.clear()
            try:
                await self._serve()
            except (Unavailable, OSError) as error:
                self._mark("pending", str(error))
                await asyncio.sleep(RETRY_S)
                self._dirty.set()

    async def _serve(self) -> None:
        """Make the process what the fronts say, leaving out those that it refuses."""
        if not self._usable():
            await self._keeper.rest()
            self._served_digest = ""
            return
        digest = self._digest()
        while digest != self._served_digest or self._keeper.process is None:
            try:
                await self._keeper.refresh()
                self._served_digest = digest
            except Unavailable as error:
                if not self._fail_culprit(str(error)):
                    raise
                digest = self._digest()
        self._mark("serving", "")

    def _fail_culprit(self, said: str) -> bool:
        found = _CULPRIT.search(said)
        front = self._fronts.get(found[1]) if found else None
        if found is None or front is None or front.status == "failed":
            return False
        front.turn("failed", found[2].strip())
        self._changed()
        return True

    def _mark(self, status: Status, detail: str) -> None:
        for front in self._usable():
            front.turn(status, detail)
        self._changed()

    def _usable(self) -> tuple[Front, ...]:
        return tuple(self._fronts[key] for key in sorted(self._fronts) if self._fronts[key].status != "failed")

    def _config(self) -> bytes:
        return encode_config(
            assets_config(tuple(front.served for front in self._usable() if front.served)), self._fleet.engine.schema
        )

    def _digest(self) -> str:
        """Of what a process serves, and on which sockets: two processes with equal digests can stand for each other."""
        sockets = " ".join(str(os.fstat(fd).st_ino) for _, fd in self._sockets())
        return content_digest(self._config() + sockets.encode())

    def _sockets(self) -> list[tuple[str, int]]:
        sockets: list[tuple[str, int]] = []
        for front in self._usable():
            sockets.append((f"in-{front.key}", front.gate.listener.fileno()))
            if front.binding is not None:
                sockets.append((f"env-{front.key}", front.binding.fileno()))
        return sockets

    def _program(self, number: int) -> Program:
        places = self._fleet.places
        binds = ((str(places.trees), TREES_INSIDE),)
        return Program(
            name=f"{NAME}.{number}",
            config=self._config(),
            sockets=tuple(self._sockets()),
            box=Sandbox(
                uid=self._settings.uid(places.tag, NAME),
                tag=places.tag,
                binds=binds,
                network=True,  # it reaches the apps' own listeners by TCP (see `WorkerdRuntime`)
                cpu_files=self._fleet.cpu_files,
                experimental=True,  # no tenant's code is in here
            ),
            limits=Limits(memory_bytes=MEMORY_BYTES_MAX, cpu_shares=CPU_SHARES, pids=PIDS_MAX),
            address=self._digest(),
        )


def inside(tree: Path) -> str:
    """Where the assets process sees a tree."""
    return f"{TREES_INSIDE}/{tree.name}"
