"""An ingress in memory. `reach` is the network: how an address answers."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import final

from msgspec.structs import replace

from skerry.core.types.ids import AccountId, AppName, InstanceId, SiteId
from skerry.core.types.routes import Route, RouteTable, Target
from skerry.kit.record import Record
from skerry.ports.ingress import AppCount, Counts, InstanceCount, TargetStats, Unavailable

IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "PUT", "DELETE"))
CONNECT = "connect"  # in place of a method, to a public port
NOT_HERE = 425  # between sites: nothing was done, ask the next one
UNKNOWN_HOST, BROKEN, NO_COPY = 404, 502, 503


class BrokenOff(Exception):
    """The connection ended before a byte of an answer came."""


class Answer(Record):
    """`by` names the instance that answered, or the site that a fallback belongs to; empty for an error of the ingress."""

    status: int
    by: str = ""


Reach = Callable[[str, str, str], Awaitable[int]]
"""(address, method, host) -> status; of a connection to a public port (address, "connect", port). Raises
`ConnectionRefusedError` (nothing was sent) or `BrokenOff`."""


async def nobody(address: str, method: str, host: str) -> int:
    """A network in which nobody listens."""
    raise ConnectionRefusedError(f"{method} {host} at {address}")


@final
class SimulatedIngress:
    """`table` is the last one applied; it survives `crash`, as files do. `applies` counts changes."""

    def __init__(self, site: SiteId, *, reach: Reach = nobody) -> None:
        self.table = RouteTable(site=site)
        self.applies = 0
        self._reach = reach
        self._pid = 0
        self._starts = 0
        self._in_flight: dict[str, int] = {}
        self._totals: dict[str, int] = {}
        self._credit: dict[str, int] = {}  # smooth weighted round robin
        self._asked: dict[tuple[AccountId, AppName], AppCount] = {}
        self._served: dict[InstanceId, InstanceCount] = {}

    async def start(self) -> None:
        if not self._pid:
            self.revive()

    async def apply(self, table: RouteTable) -> None:
        if table != self.table:
            self.table = table
            self.applies += 1
        if not self._pid:
            raise Unavailable("the ingress is down")

    async def stats(self) -> tuple[TargetStats, ...]:
        names = sorted({target.instance for route in self.table.routes for target in route.targets} | self._in_flight.keys())
        return tuple(
            TargetStats(instance=name, in_flight=self._in_flight.get(name, 0), total=self._totals.get(name, 0)) for name in names
        )

    async def take_counts(self) -> Counts:
        asked, self._asked = self._asked, {}
        served, self._served = self._served, {}
        return Counts(apps=tuple(asked[key] for key in sorted(asked)), instances=tuple(served[name] for name in sorted(served)))

    @property
    def pid(self) -> int:
        return self._pid

    @property
    def problems(self) -> tuple[str, ...]:
        return ()

    async def aclose(self, *, stop: bool) -> None:
        if stop:
            self.crash()

    def crash(self) -> None:
        """As kill -9. A real one is back within a second: `revive`."""
        self._pid = 0
        self._in_flight.clear()
        self._totals.clear()
        self._asked.clear()
        self._served.clear()

    def revive(self) -> None:
        self._starts += 1
        self._pid = self._starts

    async def request(self, host: str, *, method: str = "GET", peer: bool = False, seat: str = "") -> Answer:
        """By the users' frontend, or by the peers'; `seat`: who answered this user before.

        Raises `ConnectionRefusedError` while it is down.
        """
        if not self._pid:
            raise ConnectionRefusedError("the ingress is down")
        route = self._route_of(host)
        if route is None:
            return Answer(status=NOT_HERE if peer else UNKNOWN_HOST)
        if peer:
            return await self._answer(route, host, method, peer=True, seat=seat)
        self._count(route, requests=1, errors=0)
        answer = await self._answer(route, host, method, peer=False, seat=seat)
        if answer.status >= 500:
            self._count(route, requests=0, errors=1)
        return answer

    async def connect(self, port: int, *, peer: bool = False) -> str:
        """The name of the instance or site that takes a connection to a public port. Raises `OSError` when nobody does."""
        route = next((route for route in self.table.routes if route.public_port == port), None)
        if not self._pid or route is None:
            raise ConnectionRefusedError(f"port {port}")
        if not peer:
            self._count(route, requests=1, errors=0)
        for name, address, own in self._tries(route, "", fallbacks=not peer):
            try:
                await self._ask(name if own else None, address, CONNECT, str(port))
            except ConnectionRefusedError:
                continue
            return name
        if not peer:
            self._count(route, requests=0, errors=1)
        raise ConnectionResetError(f"nobody serves at port {port}")

    def _count(self, route: Route, *, requests: int, errors: int) -> None:
        key = (route.account, route.app)
        had = self._asked.get(key) or AppCount(account=route.account, app=route.app, requests=0)
        self._asked[key] = replace(had, requests=had.requests + requests, errors=had.errors + errors)

    async def _answer(self, route: Route, host: str, method: str, *, peer: bool, seat: str) -> Answer:
        broken = False
        for name, address, own in self._tries(route, seat if route.sticky else "", fallbacks=not peer):
            try:
                status = await self._ask(name if own else None, address, method, host)
            except ConnectionRefusedError:
                continue
            except BrokenOff:
                broken = True
                if method not in IDEMPOTENT:
                    break
                continue
            if own or status != NOT_HERE:
                return Answer(status=status, by=name)
        return Answer(status=BROKEN if broken else NOT_HERE if peer else NO_COPY)

    def _route_of(self, host: str) -> Route | None:
        name = host.partition(":")[0].rstrip(".").lower()
        return next((route for route in self.table.routes if name in route.hosts), None)

    def _tries(self, route: Route, seat: str, *, fallbacks: bool) -> Iterator[tuple[str, str, bool]]:
        in_turn = sorted(self._in_turn(route.targets), key=lambda target: target.instance != seat)
        yield from ((target.instance, target.address, True) for target in in_turn)
        if fallbacks:
            yield from ((site, address, False) for site, address in route.fallbacks)

    def _in_turn(self, targets: tuple[Target, ...]) -> list[Target]:
        """The one whose turn it is, then the others that take requests."""
        able = [target for target in targets if target.weight > 0]
        total = sum(target.weight for target in able)
        for target in able:
            self._credit[target.instance] = self._credit.get(target.instance, 0) + target.weight
        able.sort(key=lambda target: (-self._credit[target.instance], target.instance))
        if able:
            self._credit[able[0].instance] -= total
        return able

    async def _ask(self, instance: str | None, address: str, method: str, host: str) -> int:
        if instance is None:
            return await self._reach(address, method, host)
        self._in_flight[instance] = self._in_flight.get(instance, 0) + 1
        self._totals[instance] = self._totals.get(instance, 0) + 1
        loop, failed = asyncio.get_running_loop(), True
        begun_s = loop.time()
        try:
            status = await self._reach(address, method, host)
            failed = status >= 500
            return status
        finally:
            if instance in self._in_flight:
                self._in_flight[instance] -= 1
            self._count_instance(InstanceId(instance), failed=failed, took_ms=(loop.time() - begun_s) * 1000)

    def _count_instance(self, instance: InstanceId, *, failed: bool, took_ms: float) -> None:
        had = self._served.get(instance) or InstanceCount(instance=instance, requests=0)
        self._served[instance] = replace(
            had,
            requests=had.requests + 1,
            errors=had.errors + failed,
            latency_ms_sum=had.latency_ms_sum + round(took_ms),
        )
