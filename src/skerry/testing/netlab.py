"""A machine with an uplink and a world behind it, in network namespaces of its own: what a test does there reaches nobody.

    lab = NetworkLab(directory)
    with lab:                                  # the calling thread is now on the machine
        lab.listen(namespace, 80, "hello")     # a server inside
        lab.reaches(namespace, "8.8.8.8:80")   # and a client

The world answers every address that `WORLD` names, public ones and ones that are nobody's business.
"""

import asyncio
import ctypes
import os
import socket
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from skerry.adapters.network.linux import devices, namespaces

T = TypeVar("T")

UPLINK, UPLINK_HOST, UPLINK_WORLD = "up0", "10.77.0.2", "10.77.0.1"
PUBLIC, PUBLIC_2, PRIVATE = "8.8.8.8", "9.9.9.9", "10.9.9.9"
WORLD = (PUBLIC, PUBLIC_2, PRIVATE, "169.254.169.254", "192.168.7.7", "172.16.5.5", "100.100.100.200", "198.18.3.4", "192.0.2.9")
PORT = 80
CALL_S_MAX = 2.0


class NetworkLab:
    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self.machine = directory / "machine"
        self.world = directory / "world"
        self._outside = -1
        self._servers: list[asyncio.Server] = []

    def __enter__(self) -> "NetworkLab":
        for path in (self.machine, self.world):
            namespaces.make(path)
        self._outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._enter(self.machine)
        namespaces.in_thread(self._connect)  # of its own: pyroute2 runs a loop where it is called
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for server in self._servers:
            server.close()
        _setns(self._outside)
        os.close(self._outside)
        for path in (self.machine, self.world):
            namespaces.remove(path)

    async def listen(self, netns: Path, port: int, answer: str, *, host: str = "0.0.0.0") -> asyncio.Server:  # noqa: S104
        """An HTTP server inside, which tells every client `answer` and the client's address."""
        listener = namespaces.inside(netns, lambda: socket.create_server((host, port), backlog=512))

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await reader.readuntil(b"\r\n\r\n")
                body = f"{answer} {writer.get_extra_info('peername')[0]}".encode()
                writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
                await writer.drain()
            except (OSError, EOFError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(serve, sock=listener)
        self._servers.append(server)
        return server

    async def world_listens(self) -> None:
        await self.listen(self.world, PORT, "world")

    async def reaches(self, netns: Path, target: str) -> bool:
        """A TCP connection from inside to host:port is accepted."""
        host, _, port = target.rpartition(":")
        return await self.inside(netns, lambda: _connects(host, int(port)))

    async def inside(self, netns: Path, work: Callable[[], T]) -> T:
        """In a thread of its own: it may block."""
        return await asyncio.get_running_loop().run_in_executor(None, lambda: namespaces.inside(netns, work))

    def _enter(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(descriptor)
        finally:
            os.close(descriptor)

    def _connect(self) -> None:
        descriptor = os.open(self.world, os.O_RDONLY | os.O_CLOEXEC)
        with devices.netlink() as route:
            route.link("set", index=1, state="up")
            route.link("add", ifname=UPLINK, kind="veth", peer={"ifname": UPLINK, "net_ns_fd": descriptor})
            namespaces.inside(self.world, lambda: _address(UPLINK, f"{UPLINK_WORLD}/24", *(f"{host}/32" for host in WORLD)))
            _address(UPLINK, f"{UPLINK_HOST}/24")
            route.route("add", dst="default", gateway=UPLINK_WORLD)
        os.close(descriptor)


def _address(device: str, *addresses: str) -> None:
    with devices.netlink() as route:
        index = devices.index_of(route, device)
        assert index is not None
        route.link("set", index=1, state="up")
        route.link("set", index=index, state="up")
        for address in addresses:
            host, _, length = address.partition("/")
            route.addr("add", index=index, address=host, prefixlen=int(length))


def _connects(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=CALL_S_MAX):
            return True
    except OSError:
        return False


def _setns(descriptor: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, 0x40000000) != 0:
        raise OSError(ctypes.get_errno(), "setns")
