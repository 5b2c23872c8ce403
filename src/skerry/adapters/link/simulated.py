"""Links inside one process, for the simulated world: they take time, and they can be cut."""

from collections.abc import Awaitable, Callable
from typing import final

from skerry.core.types.ids import Digest, NodeId, SiteId
from skerry.core.types.slices import NodeReport, NodeSlice, SiteReport, SiteSlice
from skerry.ports.clock import Clock
from skerry.ports.links import Unreachable


class Wire:
    """One way between two planes: `latency_ms` for each direction, and whether it is cut."""

    def __init__(self, clock: Clock, *, latency_ms: int = 1) -> None:
        self._clock = clock
        self.latency_ms = latency_ms
        self.cut = False

    async def cross(self) -> None:
        """Raises `Unreachable` when the wire is cut, before or meanwhile."""
        await self._clock.sleep_ms(self.latency_ms)
        if self.cut:
            raise Unreachable("the wire is cut")


class ControlSide:
    """What a control offers to its sites."""

    def __init__(
        self,
        hear: Callable[[SiteReport], None],
        next_slice: Callable[[SiteId, int, int], Awaitable[SiteSlice | None]],
        blob: Callable[[Digest], Awaitable[bytes]],
    ) -> None:
        self.hear = hear
        self.next_slice = next_slice
        self.blob = blob


class SiteSide:
    """What a site controller offers to its nodes."""

    def __init__(
        self,
        hear: Callable[[NodeReport], None],
        next_slice: Callable[[NodeId, int, int], Awaitable[NodeSlice | None]],
        blob: Callable[[Digest], Awaitable[bytes]],
    ) -> None:
        self.hear = hear
        self.next_slice = next_slice
        self.blob = blob


@final
class SimulatedControlLink:
    """`upper` gives the living control's (hear, next_slice, blob), or None."""

    def __init__(
        self,
        wire: Wire,
        site: SiteId,
        upper: Callable[[], ControlSide | None],
    ) -> None:
        self._wire = wire
        self._site = site
        self._upper = upper

    async def report(self, report: SiteReport) -> None:
        await self._wire.cross()
        self._living().hear(report)
        await self._wire.cross()

    async def next_slice(self, *, after: int, wait_ms: int) -> SiteSlice | None:
        await self._wire.cross()
        found = await self._living().next_slice(self._site, after, wait_ms)
        await self._wire.cross()
        return found

    async def blob(self, digest: Digest) -> bytes:
        await self._wire.cross()
        return await self._living().blob(digest)

    def _living(self) -> ControlSide:
        side = self._upper()
        if side is None:
            raise Unreachable("control is down")
        return side


@final
class SimulatedSiteLink:
    """`upper` gives the living site controller's functions, or None."""

    def __init__(self, wire: Wire, node: NodeId, upper: Callable[[], SiteSide | None]) -> None:
        self._wire = wire
        self._node = node
        self._upper = upper

    async def report(self, report: NodeReport) -> None:
        await self._wire.cross()
        self._living().hear(report)
        await self._wire.cross()

    async def next_slice(self, *, after: int, wait_ms: int) -> NodeSlice | None:
        await self._wire.cross()
        found = await self._living().next_slice(self._node, after, wait_ms)
        await self._wire.cross()
        return found

    async def blob(self, digest: Digest) -> bytes:
        await self._wire.cross()
        return await self._living().blob(digest)

    def _living(self) -> SiteSide:
        side = self._upper()
        if side is None:
            raise Unreachable("the site controller is down")
        return side
