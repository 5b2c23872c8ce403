"""A clock for an event loop whose time is turned by hand (`skerry.testing.virtual_loop`)."""

import asyncio

EPOCH_MS = 1_700_000_000_000  # a fixed beginning, so that two runs have the same times


class LoopClock:
    """Reads the running loop's own time, whatever drives it."""

    def now_ms(self) -> int:
        return EPOCH_MS + self.monotonic_ms()

    def monotonic_ms(self) -> int:
        return round(asyncio.get_running_loop().time() * 1000)

    async def sleep_ms(self, delay_ms: int) -> None:
        await asyncio.sleep(delay_ms / 1000)
