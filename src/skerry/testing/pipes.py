"""Pipes of calls in memory: what one end sends, the other receives."""

import asyncio

from skerry.ports.calls import PipeClosed

WAITING_MAX = 16  # messages, then the sender waits


class Way:
    """One direction."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.room = asyncio.Semaphore(WAITING_MAX)
        self.closed = False

    def close(self) -> None:
        self.closed = True
        self.messages.put_nowait(None)
        self.room.release()


class MemoryPipe:
    def __init__(self, there: Way, back: Way) -> None:
        self._there = there
        self._back = back

    async def send(self, message: bytes) -> None:
        await self._there.room.acquire()
        if self._there.closed:
            self._there.room.release()
            raise PipeClosed("the other end has left")
        self._there.messages.put_nowait(message)

    async def receive(self) -> bytes | None:
        message = await self._back.messages.get()
        if message is None:
            self._back.messages.put_nowait(None)  # whoever asks again is told again
            return None
        self._back.room.release()
        return message

    async def aclose(self) -> None:
        self._there.close()
        self._back.close()


def pipe_pair() -> tuple[MemoryPipe, MemoryPipe]:
    one, other = Way(), Way()
    return MemoryPipe(one, other), MemoryPipe(other, one)
