"""A lower plane's two loops towards the plane above: reports go up, slices come down. Silence is endured for ever."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from skerry.kit.record import Record
from skerry.ports.clock import Clock
from skerry.ports.links import LinkError

log = structlog.get_logger()


class UplinkSettings(Record):
    """A report goes up at least every `heartbeat_ms`. Nobody answering: again after a delay that doubles up to a cap."""

    heartbeat_ms: int
    retry_ms_min: int = 50
    retry_ms_max: int = 2_000


async def keep_reporting(send: Callable[[], Awaitable[None]], due: asyncio.Event, clock: Clock, settings: UplinkSettings) -> None:
    """`send` at once when `due` is set, else as a heartbeat."""

    async def once() -> None:
        due.clear()
        await send()
        await wait_event(due, settings.heartbeat_ms)

    await _again_and_again(once, clock, settings)


async def keep_fetching(fetch: Callable[[], Awaitable[None]], clock: Clock, settings: UplinkSettings) -> None:
    """`fetch` waits for the next slice by itself (a long poll), and takes it in."""
    await _again_and_again(fetch, clock, settings)


async def wait_event(event: asyncio.Event, timeout_ms: int) -> None:
    """Wait for the event, at most so long."""
    try:
        async with asyncio.timeout(timeout_ms / 1000):
            await event.wait()
    except TimeoutError:
        return


async def _again_and_again(step: Callable[[], Awaitable[None]], clock: Clock, settings: UplinkSettings) -> None:
    delay_ms = settings.retry_ms_min
    while True:
        try:
            await step()
            delay_ms = settings.retry_ms_min
        except LinkError as error:
            log.debug("uplink", error=str(error))
            await clock.sleep_ms(delay_ms)
            delay_ms = min(delay_ms * 2, settings.retry_ms_max)
