"""The ingress's contract on every adapter."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from skerry.adapters import tools
from skerry.adapters.ingress.haproxy.config import SEAT_COOKIE
from skerry.adapters.ingress.haproxy.ingress import HAProxyIngress
from skerry.adapters.ingress.simulated import BrokenOff, SimulatedIngress
from skerry.core.types.ids import SiteId
from skerry.core.types.routes import Route
from skerry.ports.ingress import Ingress
from skerry.testing.backends import Backend, Mode, fetch
from skerry.testing.contracts.ingress import IngressContract
from skerry.testing.contracts.ingress_tcp import IngressTcpContract
from skerry.testing.haproxy_site import HAProxySite, route, tcp_route
from skerry.testing.lines import Lines, ask_once, proxy_header


class Counted(Backend):
    @property
    def count(self) -> int:
        return len(self.heads)


class SimulatedTarget:
    def __init__(self, name: str) -> None:
        self.name = name
        self.mode: Mode = "answer"
        self.address = f"{name}:1"
        self.count = 0
        self.listens = True
        self._released = asyncio.Event()

    async def stop(self) -> None:
        self.listens = False

    def release(self) -> None:
        self.mode = "answer"
        self._released.set()

    async def answer(self) -> int:
        if not self.listens:
            raise ConnectionRefusedError(self.address)
        self.count += 1
        await asyncio.sleep(0)
        if self.mode == "break":
            raise BrokenOff(self.address)
        if self.mode == "hold":
            await self._released.wait()
        return 425 if self.mode == "not_here" else 200


class SimulatedHarness:
    def __init__(self) -> None:
        self._targets: dict[str, SimulatedTarget] = {}
        self._ingress = SimulatedIngress(SiteId("lhr"), reach=self._reach)

    async def _reach(self, address: str, method: str, host: str) -> int:
        return await self._targets[address].answer()

    async def open(self) -> Ingress:
        await self._ingress.start()
        return self._ingress

    async def target(self, name: str) -> SimulatedTarget:
        target = SimulatedTarget(name)
        self._targets[target.address] = target
        return target

    def route(self, app, *targets, fallbacks=(), sticky=False) -> Route:
        return route(app, *targets, fallbacks=fallbacks, sticky=sticky)

    async def request(self, host: str, *, method: str = "GET", peer: bool = False, seat: str = "") -> tuple[int, str]:
        answer = await self._ingress.request(host, method=method, peer=peer, seat=seat)
        return answer.status, answer.by

    def kill(self, ingress: Ingress) -> None:
        self._ingress.crash()
        self._ingress.revive()

    def leftovers(self) -> list[str]:
        return []


class HAProxyHarness:
    def __init__(self, directory: Path) -> None:
        self.site = HAProxySite(directory)
        self.opened: list[HAProxyIngress] = []
        self.backends: list[Counted] = []

    async def open(self) -> Ingress:
        self.opened.append(await self.site.open())
        return self.opened[-1]

    async def target(self, name: str) -> Counted:
        backend = Counted(name)
        self.backends.append(backend)
        await backend.start()
        return backend

    def route(self, app, *targets, fallbacks=(), sticky=False) -> Route:
        return route(app, *targets, fallbacks=fallbacks, sticky=sticky)

    async def request(self, host: str, *, method: str = "GET", peer: bool = False, seat: str = "") -> tuple[int, str]:
        headers = {"cookie": f"theme=dark; {SEAT_COOKIE}={seat}"} if seat else {}
        reply = await fetch(self.site.peers if peer else self.site.users, host, method=method, headers=headers)
        return reply.status, reply.by if reply.status < 400 else ""

    def kill(self, ingress: Ingress) -> None:
        os.kill(ingress.pid, signal.SIGKILL)

    def leftovers(self) -> list[str]:
        return self.site.leftovers()

    async def close(self) -> None:
        for ingress in self.opened:
            await ingress.aclose(stop=True)
        for backend in self.backends:
            await backend.stop()
        self.site.remove()


class SimulatedTcpHarness(SimulatedHarness):
    async def far(self, name: str) -> SimulatedTarget:
        return await self.target(name)

    def route(self, app, port, *targets, fallbacks=()) -> Route:
        return tcp_route(app, port, *targets, fallbacks=fallbacks)

    async def ask(self, port: int, *, peer: bool = False) -> str:
        return await self._ingress.connect(port, peer=peer)


class HAProxyTcpHarness:
    def __init__(self, directory: Path) -> None:
        self.site = HAProxySite(directory)
        self.opened: list[HAProxyIngress] = []
        self.servers: list[Lines] = []

    async def open(self) -> Ingress:
        self.opened.append(await self.site.open())
        return self.opened[-1]

    async def target(self, name: str) -> Lines:
        self.servers.append(await Lines(name).start())
        return self.servers[-1]

    async def far(self, name: str) -> Lines:
        self.servers.append(await Lines(name, proxy=True).start())
        return self.servers[-1]

    def route(self, app, port, *targets, fallbacks=()) -> Route:
        return tcp_route(app, port, *targets, fallbacks=fallbacks)

    async def ask(self, port: int, *, peer: bool = False) -> str:
        if peer:
            return await ask_once(self.site.settings.site.peer_tcp_address, header=proxy_header("127.0.0.9", port))
        return await ask_once(self.site.at(port))

    def kill(self, ingress: Ingress) -> None:
        os.kill(ingress.pid, signal.SIGKILL)

    def leftovers(self) -> list[str]:
        return self.site.leftovers()

    async def close(self) -> None:
        for ingress in self.opened:
            await ingress.aclose(stop=True)
        for server in self.servers:
            await server.stop()
        self.site.remove()


class TestSimulatedIngressTcp(IngressTcpContract):
    @pytest.fixture
    async def harness(self) -> AsyncIterator[SimulatedTcpHarness]:
        yield SimulatedTcpHarness()


@pytest.mark.skipif(not tools.find_haproxy().usable, reason=f"haproxy: {tools.find_haproxy().problem}")
class TestHAProxyIngressTcp(IngressTcpContract):
    @pytest.fixture
    async def harness(self, tmp_path: Path) -> AsyncIterator[HAProxyTcpHarness]:
        harness = HAProxyTcpHarness(tmp_path)
        try:
            yield harness
        finally:
            await harness.close()


class TestSimulatedIngress(IngressContract):
    @pytest.fixture
    async def harness(self) -> AsyncIterator[SimulatedHarness]:
        yield SimulatedHarness()


@pytest.mark.skipif(not tools.find_haproxy().usable, reason=f"haproxy: {tools.find_haproxy().problem}")
class TestHAProxyIngress(IngressContract):
    @pytest.fixture
    async def harness(self, tmp_path: Path) -> AsyncIterator[HAProxyHarness]:
        harness = HAProxyHarness(tmp_path)
        try:
            yield harness
        finally:
            await harness.close()
