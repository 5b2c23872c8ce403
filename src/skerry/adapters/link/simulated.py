"""Links inside one process, for the simulated world: they take time, and they can be cut."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar, final

from skerry.core.types.ids import Digest, NodeId, SiteId
from skerry.core.types.slices import NodeReport, NodeSlice, SiteReport, SiteSlice
from skerry.ports.clock import Clock
from skerry.ports.links import LinkError, Unreachable

T = TypeVar("T")
S = TypeVar("S", SiteSlice, NodeSlice)


class Wire(Generic[S]):
    """One way between two planes: `latency_ms` for each direction, and whether it is cut.

    `echoes`: so many of the next calls are answered with the slice before the last one, as if that had been held up on its way.
    """

    def __init__(self, clock: Clock, *, latency_ms: int = 1) -> None:
        self._clock = clock
        self._brought: tuple[S, ...] = ()
        self.latency_ms = latency_ms
        self.cut = False
        self.echoes = 0

    def echo(self) -> S | None:
        """What to answer in place of asking, if anything."""
        if not self.echoes or len(self._brought) < 2:
            return None
        self.echoes -= 1
        return self._brought[0]

    def bring(self, slice_: S | None) -> S | None:
        """A slice that is an answer, if it is one."""
        if slice_ is not None:
            self._brought = (*self._brought[-1:], slice_)
        return slice_

    def forget(self) -> None:
        """Whoever receives has lost its disk: it could not tell what is old."""
        self._brought = ()

    async def cross(self) -> None:
        """Raises `Unreachable` when the wire is cut, before or meanwhile."""
        await self._clock.sleep_ms(self.latency_ms)
        if self.cut:
            raise Unreachable("the wire is cut")


class Upper:
    """What the upper plane of a link is to its callers: while it lives, its answers; killed, broken connections."""

    def __init__(self, on_fault: Callable[[Exception], None] | None = None) -> None:
        self._on_fault = on_fault
        self._calls: dict[asyncio.Task[Any], None] = {}  # a set would be in no order that two runs share
        self._over = False

    def end(self) -> None:
        """As SIGKILL does: whoever waits for an answer finds the connection broken."""
        self._over = True
        for task in tuple(self._calls):
            task.cancel()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Raises `Unreachable` when the plane is killed meanwhile, or when it fails as no plane should (a 500)."""
        task = asyncio.ensure_future(work)
        self._calls[task] = None
        try:
            return await task
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if self._over and caller is not None and not caller.cancelling():
                raise Unreachable("the connection broke") from None
            raise
        except LinkError:
            raise
        except Exception as error:
            if self._on_fault is None:
                raise
            self._on_fault(error)
            raise Unreachable(f"status 500: {error!r}") from error
        finally:
            del self._calls[task]


class ControlSide(Upper):
    """What a control offers to its sites."""

    def __init__(
        self,
        hear: Callable[[SiteReport], None],
        next_slice: Callable[[SiteId, int, int], Coroutine[Any, Any, SiteSlice | None]],
        blob: Callable[[Digest], Coroutine[Any, Any, bytes]],
        on_fault: Callable[[Exception], None] | None = None,
    ) -> None:
        super().__init__(on_fault)
        self.hear = hear
        self.next_slice = next_slice
        self.blob = blob


class SiteSide(Upper):
    """What a site controller offers to its nodes."""

    def __init__(
        self,
        hear: Callable[[NodeReport], None],
        next_slice: Callable[[NodeId, int, int], Coroutine[Any, Any, NodeSlice | None]],
        blob: Callable[[Digest], Coroutine[Any, Any, bytes]],
        on_fault: Callable[[Exception], None] | None = None,
    ) -> None:
        super().__init__(on_fault)
        self.hear = hear
        self.next_slice = next_slice
        self.blob = blob


@final
class SimulatedControlLink:
    """`upper` gives the living control's side, or None."""

    def __init__(
        self,
        wire: Wire[SiteSlice],
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
        late = self._wire.echo()
        if late is not None:
            return late
        side = self._living()
        found = await side.run(side.next_slice(self._site, after, wait_ms))
        await self._wire.cross()
        return self._wire.bring(found)

    async def blob(self, digest: Digest) -> bytes:
        await self._wire.cross()
        side = self._living()
        return await side.run(side.blob(digest))

    def _living(self) -> ControlSide:
        side = self._upper()
        if side is None:
            raise Unreachable("control is down")
        return side


@final
class SimulatedSiteLink:
    """`upper` gives the living site controller's side, or None."""

    def __init__(self, wire: Wire[NodeSlice], node: NodeId, upper: Callable[[], SiteSide | None]) -> None:
        self._wire = wire
        self._node = node
        self._upper = upper

    async def report(self, report: NodeReport) -> None:
        await self._wire.cross()
        self._living().hear(report)
        await self._wire.cross()

    async def next_slice(self, *, after: int, wait_ms: int) -> NodeSlice | None:
        await self._wire.cross()
        late = self._wire.echo()
        if late is not None:
            return late
        side = self._living()
        found = await side.run(side.next_slice(self._node, after, wait_ms))
        await self._wire.cross()
        return self._wire.bring(found)

    async def blob(self, digest: Digest) -> bytes:
        await self._wire.cross()
        side = self._living()
        return await side.run(side.blob(digest))

    def _living(self) -> SiteSide:
        side = self._upper()
        if side is None:
            raise Unreachable("the site controller is down")
        return side
