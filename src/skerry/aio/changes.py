"""Telling any number of listeners that something changed, coalesced."""

import asyncio
from collections.abc import AsyncIterator


class Changes:
    """`notify` never blocks; a listener that is slow hears once of all that it missed."""

    def __init__(self) -> None:
        self._listeners: dict[asyncio.Event, None] = {}  # in the order in which they came, in every run

    def notify(self) -> None:
        for event in self._listeners:
            event.set()

    async def listen(self) -> AsyncIterator[None]:
        event = asyncio.Event()
        self._listeners[event] = None
        try:
            while True:
                await event.wait()
                event.clear()
                yield
        finally:
            del self._listeners[event]
