"""The upper side of calls: who asks waits here until the plane below has come for the call and brought its pipe.

client ── ask ──►┐             ┌── next_calls (long poll) ── site or node
                 │  Exchange   │
         pipe ◄──┘             └── meet(call, pipe) ◄────── its connection
"""

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field

from skerry.ports.calls import Call, NotAnswered, Pipe, PipeClosed

ANSWER_S_MAX = 10.0  # a plane that is there asks for calls all the time
WAITING_MAX = 64  # calls that one plane has not come for yet


@dataclass
class _Asked:
    call: Call
    pipe: "asyncio.Future[Pipe]"
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Exchange:
    """One per upper plane. `caller` names a plane below: a site's or a node's id."""

    def __init__(self) -> None:
        self._waiting: defaultdict[str, list[_Asked]] = defaultdict(list)
        self._fetched: dict[tuple[str, str], _Asked] = {}
        self._news: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def ask(self, caller: str, call: Call) -> "Conversation":
        """Hand the call to `caller`, and wait for its pipe. Raises `NotAnswered`."""
        if len(self._waiting[caller]) >= WAITING_MAX:
            raise NotAnswered(f"{caller} has {WAITING_MAX} calls waiting already")
        asked = _Asked(call, asyncio.get_running_loop().create_future())
        self._waiting[caller].append(asked)
        self._news[caller].set()
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                return Conversation(await asyncio.shield(asked.pipe), asked.over)
        except TimeoutError:
            asked.over.set()
            raise NotAnswered(f"{caller} does not answer") from None
        except asyncio.CancelledError:
            asked.over.set()
            raise
        finally:
            self._forget(caller, asked)

    async def next_calls(self, caller: str, wait_ms: int) -> tuple[Call, ...]:
        """All that wait for `caller`; nothing after `wait_ms`."""
        if not self._waiting[caller]:
            self._news[caller].clear()
            try:
                async with asyncio.timeout(wait_ms / 1000):
                    await self._news[caller].wait()
            except TimeoutError:
                return ()
        found, self._waiting[caller] = self._waiting[caller], []
        for asked in found:
            self._fetched[caller, asked.call.id] = asked
        return tuple(asked.call for asked in found)

    async def meet(self, caller: str, call_id: str, pipe: Pipe) -> bool:
        """Join the pipe to who asked; returns when the conversation is over. False: nobody waits for it any more."""
        asked = self._fetched.pop((caller, call_id), None)
        if asked is None or asked.pipe.done():
            return False
        asked.pipe.set_result(pipe)
        await asked.over.wait()
        return True

    def _forget(self, caller: str, asked: _Asked) -> None:
        self._fetched.pop((caller, asked.call.id), None)
        if asked in self._waiting[caller]:
            self._waiting[caller].remove(asked)


class Conversation:
    """A pipe whose other side is told when it is over."""

    def __init__(self, pipe: Pipe, over: asyncio.Event) -> None:
        self._pipe = pipe
        self._over = over

    async def send(self, message: bytes) -> None:
        await self._pipe.send(message)

    async def receive(self) -> bytes | None:
        return await self._pipe.receive()

    async def aclose(self) -> None:
        await self._pipe.aclose()
        self._over.set()


async def join(one: Pipe, other: Pipe) -> None:
    """Pass messages on in both directions until either end closes; both are closed then."""

    async def forward(source: Pipe, sink: Pipe) -> None:
        try:
            while (message := await source.receive()) is not None:
                await sink.send(message)
        except PipeClosed:
            return

    tasks = [asyncio.create_task(forward(one, other)), asyncio.create_task(forward(other, one))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(one.aclose(), other.aclose(), return_exceptions=True)
