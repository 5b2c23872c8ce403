"""What becomes of connections to an instance's address. The last word wins; what could not be done is tried again."""

import asyncio
from typing import Literal

import structlog

from skerry.ports.clock import Clock
from skerry.ports.network import Network, NetworkError

log = structlog.get_logger()

Mode = Literal["hold", "open", "refuse"]
RETRY_MS = 500


class Gate:
    """`run` it as a task of its own. An instance without a port has none to set: pass `closed`."""

    def __init__(self, network: Network, clock: Clock, instance_id: str, *, closed: bool) -> None:
        self._network = network
        self._clock = clock
        self._id = instance_id
        self._closed = closed
        self._wanted: tuple[Mode, str] | None = None
        self._applied: tuple[Mode, str] | None = None
        self._changed = asyncio.Event()
        self._settled = asyncio.Event()

    def wish(self, mode: Mode, reason: str = "") -> None:
        if self._closed or self._wanted == (mode, reason):
            return
        self._wanted = (mode, reason)
        self._changed.set()
        self._settled.clear()

    async def settle(self, mode: Mode, reason: str = "") -> None:
        """Wish, and return when the last wish is in force."""
        self.wish(mode, reason)
        if not self._closed and self._applied != self._wanted:
            await self._settled.wait()

    async def run(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            while self._wanted is not None and self._applied != self._wanted:
                await self._apply(self._wanted)
            self._settled.set()

    async def _apply(self, wanted: tuple[Mode, str]) -> None:
        mode, reason = wanted
        try:
            match mode:
                case "hold":
                    await self._network.hold(self._id)
                case "open":
                    await self._network.open(self._id)
                case "refuse":
                    await self._network.refuse(self._id, reason)
        except NetworkError as error:
            log.warning("gate_waits", instance=self._id, mode=mode, error=str(error))
            await self._clock.sleep_ms(RETRY_MS)
        else:
            self._applied = wanted
