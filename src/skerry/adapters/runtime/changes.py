"""Telling any number of listeners that something changed, coalesced."""

import asyncio
from collections.abc import AsyncIterator


class Changes:
    """`notify` never blocks; a listener that is slow hears once of all that it missed."""

    def __init__(self) -> None:
        self._listeners: set[asyncio.Event] = set()

    def notify(self) -> None:
        for event in self._listeners:
            event.set()

    async def listen(self) -> AsyncIterator[None]:
        event = asyncio.Event()
        self._listeners.add(event)
        try:
            while True:
                await event.wait()
                event.clear()
                yield
        finally:
            self._listeners.discard(event)
