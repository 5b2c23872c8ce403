"""The network of a simulated world: who reaches whom, and how an address answers."""

import asyncio
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, final

from skerry.adapters.ingress.simulated import BROKEN, BrokenOff
from skerry.core.types.ids import SiteId
from skerry.testing.world.ground import Ground, Host
from skerry.testing.world.host import Cell

HANDLE_MS = 2  # what a request takes inside an instance
HOP_MS = 20  # between two sites, there and back


@dataclass
class Way:
    """Where a request came to be served; empty until it was."""

    site: str = ""
    node: str = ""
    version: str = ""
    refused: bool = False  # an instance that cannot start said so itself
    broke: bool = False  # it was handed on, and broke off in the next city: it goes to no third one


way_of_request: ContextVar[Way] = ContextVar("way_of_request")


@final
class Network:
    """Pairs of sites may be parted: then they do not reach each other."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._apart: set[frozenset[str]] = set()
        self._joined_ms: dict[str, int] = {}  # of each site: when it was last joined to one that it had been parted from

    def part(self, a: str, b: str) -> None:
        self._apart.add(frozenset((a, b)))
        self._ground.note(f"{a} and {b} are apart")

    def join(self, a: str, b: str) -> None:
        """Idempotent."""
        if frozenset((a, b)) in self._apart:
            self._apart.remove(frozenset((a, b)))
            self._joined_ms |= dict.fromkeys((a, b), self._ground.clock.monotonic_ms())
            self._ground.note(f"{a} and {b} are joined")

    def join_all(self) -> None:
        for pair in sorted(map(sorted, self._apart)):
            self.join(*pair)

    def connected(self, a: str, b: str) -> bool:
        return a == b or frozenset((a, b)) not in self._apart

    def reached_all(self, city: str, *, since_ms: int) -> bool:
        """Whether it has been parted from none since then."""
        return not any(city in pair for pair in self._apart) and self._joined_ms.get(city, -1) < since_ms

    async def reach(self, origin: SiteId, address: str, method: str, host: str) -> int:
        """As `adapters.ingress.simulated.Reach`: an instance of the same site, or another site's peer frontend."""
        name = address.partition(".")[0]
        if name in self._ground.ingresses:
            return await self._reach_peer(origin, SiteId(name), method, host)
        return await self._reach_instance(self._ground.hosts[name], address)

    async def try_connect(self, address: str) -> Literal["accepts", "refuses", "silent"]:
        """The process is there, or an agent that holds the listener for a dead one; a machine without power says nothing."""
        await asyncio.sleep(0.001)
        node = self._ground.hosts[address.partition(".")[0]]
        there = any(cell.address == address and (node.alive or _goes_on(node, cell)) for cell in node.machine.cells.values())
        return "accepts" if there else "refuses" if node.powered else "silent"

    async def answers(self, origin: SiteId, address: str) -> bool:
        """Whether a peer frontend answers those who only look."""
        await asyncio.sleep(HOP_MS / 1000)
        name = address.partition(".")[0]
        return name not in self._ground.lost_sites and self.connected(origin, name) and self._ground.ingresses[name].pid != 0

    async def _reach_peer(self, origin: SiteId, site: SiteId, method: str, host: str) -> int:
        await asyncio.sleep(HOP_MS / 1000)
        if site in self._ground.lost_sites or not self.connected(origin, site):
            raise ConnectionRefusedError(f"{site} is out of reach of {origin}")
        ingress = self._ground.ingresses[site]
        pid = ingress.pid
        answer = await ingress.request(host, method=method, peer=True)
        if ingress.pid != pid:
            raise BrokenOff(f"the ingress of {site} ended meanwhile")
        way = way_of_request.get(None)
        if way is not None and answer.status == BROKEN:
            way.broke = True
        return answer.status

    async def _reach_instance(self, node: Host, address: str) -> int:
        cell = next((cell for cell in node.machine.cells.values() if cell.address == address), None)
        if cell is None or not (node.alive or _goes_on(node, cell)):
            raise ConnectionRefusedError(f"nobody listens at {address}")
        if not node.alive and cell.life.state == "starting" and cell.instance.version.program is None:
            await asyncio.sleep(node.machine.faults.start_ms_default / 1000)  # the process needs no agent to become ready
            status = 200
        else:
            try:
                status = await node.request(address)
            except ConnectionRefusedError as error:
                raise BrokenOff("it went while the request waited in its backlog") from error
        process = cell.process
        await asyncio.sleep(HANDLE_MS / 1000)
        if cell.process != process or node.machine.cells.get(cell.instance.id) is not cell:
            raise BrokenOff("its process ended meanwhile")
        way = way_of_request.get(None)
        if way is not None:
            way.site, way.node, way.version = node.site, node.id, cell.instance.version.id
            way.refused = status != 200
        return status


def _goes_on(node: Host, cell: Cell) -> bool:
    """Without its agent: a worker's process holds its own listener; to a program the kernel leads what was open."""
    if cell.instance.version.program is not None:
        return node.machine.is_open(cell.instance.id)
    return cell.pid is not None
