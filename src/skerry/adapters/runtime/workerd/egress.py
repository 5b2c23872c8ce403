"""The way out of all apps of a node: one workerd without any tenant's code, reached by Unix sockets.

Apps have an empty network namespace; what they fetch goes, as proxy requests, to this process, which refuses every
address that is not public. It resolves names and makes TLS itself, so an app's sandbox holds no certificates.
"""

import socket
from pathlib import Path

from skerry.adapters.cgroup.base import Limits
from skerry.adapters.runtime.workerd.config import CACHE_SOCKET, EGRESS_SOCKET, egress_config, encode_config
from skerry.adapters.runtime.workerd.keeper import Keeper
from skerry.adapters.runtime.workerd.listeners import listen_unix
from skerry.adapters.runtime.workerd.process import Fleet, Program, SandboxedProcess, newest
from skerry.adapters.runtime.workerd.sandbox import Sandbox
from skerry.adapters.runtime.workerd.settings import MIB, Settings
from skerry.kit.hashing import content_digest

NAME = "egress"
MEMORY_BYTES_MAX = 512 * MIB  # streams, TLS buffers of many connections
CPU_SHARES = 65_536  # as much as four instances: it works for all of them
PIDS_MAX = 256  # name resolution takes a thread each
_SOCKETS = (("egress", EGRESS_SOCKET), ("cache", CACHE_SOCKET))


class Egress:
    """Listens as long as the agent lives or the process does; apps wait in between."""

    def __init__(self, fleet: Fleet, settings: Settings) -> None:
        self._fleet = fleet
        self._settings = settings
        self._config = encode_config(egress_config(settings.egress_allow), fleet.engine.schema)
        self._digest = content_digest(self._config)  # a process with other rules is replaced
        self._listeners: dict[str, socket.socket] = {}
        self._keeper = Keeper(fleet, settings, NAME, self._program)

    async def attach(self, left: dict[str, SandboxedProcess], listeners: dict[str, socket.socket]) -> None:
        """Take over the process of an earlier agent and its sockets, out of what is left, or begin anew."""
        paths = {name: str(self._fleet.places.egress / file) for name, file in _SOCKETS}
        process = await newest(NAME, left)
        if process is not None and all(path in listeners for path in paths.values()):
            self._listeners = {name: listeners.pop(path) for name, path in paths.items()}
            self._keeper.adopt(process)
            if process.address != self._digest:
                await self._keeper.refresh()
            return
        if process is not None:
            await process.kill()
        self._listeners = {name: listen_unix(Path(path), mode=0o666) for name, path in paths.items()}
        await self._keeper.refresh()

    async def aclose(self, *, stop: bool) -> None:
        await self._keeper.aclose(stop=stop)
        for listener in self._listeners.values():
            listener.close()

    def _program(self, number: int) -> Program:
        tag = self._fleet.places.tag
        return Program(
            name=f"{NAME}.{number}",
            config=self._config,
            sockets=tuple((name, self._listeners[name].fileno()) for name, _ in _SOCKETS),
            box=Sandbox(uid=self._settings.uid(tag, NAME), tag=tag, network=True, resolver=True, cpu_files=self._fleet.cpu_files),
            limits=Limits(memory_bytes=MEMORY_BYTES_MAX, cpu_shares=CPU_SHARES, pids=PIDS_MAX),
            address=self._digest,
        )
