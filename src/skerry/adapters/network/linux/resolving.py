"""The agent's side of the resolver: its sockets, its process, and that it runs.

The sockets are the agent's and the process's: questions wait in them while it is started anew. An agent that follows another
finds both again by the process's record, whose note has the port.
"""

import asyncio
import os
import socket
import sys
from collections.abc import Awaitable, Callable

import structlog

from skerry.adapters.network.linux.asking import ResolverConfig
from skerry.adapters.network.linux.settings import Places, Settings, parsed_networks
from skerry.adapters.process import detached
from skerry.adapters.process.detached import Detached, Spawn
from skerry.adapters.runtime.workerd.listeners import listen_tcp
from skerry.aio.tasks import cancel
from skerry.kit.record import encode
from skerry.ports.network import NetworkError, NetworkUnavailable

log = structlog.get_logger()

NAME, PORT_NOTE = "resolver", "port"
HOST = "127.0.0.1"  # questions are led here from the instances' gateways; nobody outside the machine can come here
TRIES_MAX = 50
AGAIN_S_MIN, AGAIN_S_MAX = 0.1, 10.0
STOP_GRACE_MS = 1000
LOG_BYTES_MAX = 1 << 20


class ResolverKeeper:
    """Started with the first instance that has a use for names."""

    def __init__(self, places: Places, settings: Settings, moved: Callable[[str], Awaitable[None]]) -> None:
        """`moved` is called with its address when it has a new one."""
        self._places = places
        self._settings = settings
        self._moved = moved
        self._process: Detached | None = None
        self._sockets: tuple[socket.socket, socket.socket] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self.port: int | None = None

    async def adopt(self) -> None:
        """Go on with the process of an earlier agent, if it lives."""
        process = detached.attach(NAME, records=self._places.processes)
        if process is not None:
            self.port = int(process.record.note[PORT_NOTE])
            self._watch(process)
            await self._moved(f"{HOST}:{self.port}")  # the rules may be new

    async def ensure(self) -> None:
        """It runs, or starts now. Raises `NetworkUnavailable`."""
        async with self._starting:
            if self._watcher is None:
                self._watch(await self._start())

    async def aclose(self, *, stop: bool) -> None:
        await cancel((self._watcher,))
        self._watcher = None
        if self._process is not None:
            if stop:
                await self._process.stop(grace_ms=STOP_GRACE_MS)
            else:
                self._process.close()
            self._process = None
        for one in self._sockets or ():
            one.close()
        self._sockets = None

    async def _start(self) -> Detached:
        if self._sockets is None:
            had, self._sockets = self.port, _bind(self.port)
            self.port = self._sockets[0].getsockname()[1]
            if self.port != had:
                await self._moved(f"{HOST}:{self.port}")
        config = self._places.run / "resolver.json"
        detached.write_private(
            config,
            encode(
                ResolverConfig(
                    tag=self._places.tag,
                    askers=str(self._places.askers),
                    operator=tuple(str(network) for network in parsed_networks(self._settings.egress_allow)),
                    resolvers=self._settings.resolvers,
                    bulk_per_s=self._settings.dns_bulk_queries_per_s,
                )
            ),
        )
        what = Spawn(
            name=NAME,
            argv=(sys.executable, "-m", "skerry.adapters.network.linux.resolver", str(config)),
            env={"PYTHONDONTWRITEBYTECODE": "1", **_python_path()},
            fds=tuple(one.fileno() for one in self._sockets),
            log=str(self._places.log),
            log_bytes_max=LOG_BYTES_MAX,
            tag=self._places.tag,
            note={PORT_NOTE: str(self.port)},
        )
        return detached.spawn(what, records=self._places.processes)

    def _watch(self, process: Detached) -> None:
        self._process = process
        self._watcher = asyncio.create_task(self._keep_running(process))

    async def _keep_running(self, process: Detached) -> None:
        pause_s = AGAIN_S_MIN
        while True:
            began = asyncio.get_running_loop().time()
            await process.wait()
            process.forget()
            lived_s = asyncio.get_running_loop().time() - began
            pause_s = AGAIN_S_MIN if lived_s > AGAIN_S_MAX else min(2 * pause_s, AGAIN_S_MAX)
            log.warning("resolver_ended", said=detached.read_log_tail(self._places.log, bytes_max=500))
            await asyncio.sleep(pause_s)
            try:
                process = self._process = await self._start()
            except (OSError, NetworkError) as error:
                log.error("resolver_not_started", error=str(error))


def _python_path() -> dict[str, str]:
    """A package that is found by the agent is found by its child."""
    return {"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}


def _bind(wanted: int | None) -> tuple[socket.socket, socket.socket]:
    """(UDP, TCP) at one port, the one that was had before if it is free."""
    for _ in range(TRIES_MAX):
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            udp.bind((HOST, wanted or 0))
            return udp, listen_tcp(HOST, udp.getsockname()[1])
        except OSError:
            udp.close()
            wanted = None
    raise NetworkUnavailable(f"no free port for the resolver on {HOST}")
