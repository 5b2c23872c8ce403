"""The lower side of calls: fetch them, answer each on a connection of its own, side by side."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from skerry.kit.frames import Failed, word_frame
from skerry.ports.calls import Call, CallLink, NotAnswered, Pipe, PipeClosed
from skerry.ports.clock import Clock
from skerry.ports.links import LinkError
from skerry.services.calls.exchange import Exchange, join
from skerry.services.uplink import UplinkSettings, keep_fetching

log = structlog.get_logger()

WAIT_MS = 20_000
CONVERSATIONS_MAX = 256  # of one plane at once; further ones are refused with that reason
UPLINK = UplinkSettings(heartbeat_ms=WAIT_MS)

Handler = Callable[[Call, Pipe], Awaitable[None]]
"""Holds the conversation; closes the pipe. Raises only `PipeClosed`, or `NotAnswered` for what the client is told."""


async def answer_calls(link: CallLink, handler: Handler, clock: Clock) -> None:
    """For ever; conversations end with the task."""
    talking: set[asyncio.Task[None]] = set()

    async def fetch() -> None:
        for call in await link.next_calls(wait_ms=WAIT_MS):
            task = group.create_task(_answer(link, handler, call, full=len(talking) >= CONVERSATIONS_MAX))
            talking.add(task)
            task.add_done_callback(talking.discard)

    async with asyncio.TaskGroup() as group:
        await keep_fetching(fetch, clock, UPLINK)


async def _answer(link: CallLink, handler: Handler, call: Call, *, full: bool) -> None:
    try:
        pipe = await link.answer(call.id)
    except LinkError as error:
        log.warning("call_lost", call=call.id[:8], error=str(error))
        return
    try:
        if full:
            raise NotAnswered(f"there are {CONVERSATIONS_MAX} conversations already")
        await handler(call, pipe)
    except NotAnswered as error:
        await _say(pipe, str(error))
    except PipeClosed:
        pass
    except Exception:
        log.exception("call_failed", call=call.id[:8], instance=call.instance)
        await _say(pipe, "the platform failed; its log says why")
    finally:
        await pipe.aclose()


async def _say(pipe: Pipe, message: str) -> None:
    try:
        await pipe.send(word_frame(Failed(message=message)))
    except PipeClosed:
        return


def passing_on(exchange: Exchange, node_of: Callable[[Call], str | None]) -> Handler:
    """A site's handler: the call goes to the node that has the instance."""

    async def handler(call: Call, pipe: Pipe) -> None:
        node = node_of(call)
        if node is None:
            raise NotAnswered(f"no instance {call.instance} runs in this site any more")
        await join(pipe, await exchange.ask(node, call))

    return handler
