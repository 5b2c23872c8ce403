"""A node's end of a call: the runtime on one side, frames on the other."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from typing import Any

from skerry.core.types.ids import InstanceId
from skerry.core.types.usage import InstanceUsage
from skerry.kit.frames import (
    MESSAGE_BYTES_MAX,
    STDERR,
    STDOUT,
    Exit,
    Failed,
    NotAFrame,
    Resize,
    Signal,
    data_frame,
    parse,
    word_frame,
)
from skerry.kit.record import encode
from skerry.ports.calls import Call, CopyIn, CopyOut, Exec, Logs, Pipe, PipeClosed, Usage
from skerry.ports.runtime import Runtime, RuntimeFault
from skerry.ports.sandbox import ExecSession, SandboxError

SIGNALS = frozenset((1, 2, 3, 9, 10, 12, 15, 28))
TERMINAL_MAX = 10_000  # rows or columns


class Talk:
    """The handler of a node's calls (`skerry.services.calls.answering`). `usage` raises `NoSuchInstance`."""

    def __init__(self, runtime: Runtime, usage: Callable[[InstanceId], InstanceUsage]) -> None:
        self._runtime = runtime
        self._usage = usage

    async def __call__(self, call: Call, pipe: Pipe) -> None:
        try:
            code = await self._hold(call, pipe)
        except (RuntimeFault, SandboxError, NotAFrame) as error:
            await pipe.send(word_frame(Failed(message=str(error))))
            return
        if code is not None:
            await pipe.send(word_frame(Exit(code=code)))

    async def _hold(self, call: Call, pipe: Pipe) -> int | None:
        """The exit code; None when the client has left."""
        match call.what:
            case Exec(spec=spec):
                session = await self._runtime.exec(call.instance, spec)
                try:
                    return await _exec(session, pipe)
                finally:
                    await session.aclose()
            case Logs(tail_bytes=tail_bytes, follow=follow):
                return await _send_all(self._runtime.logs(call.instance, tail_bytes=tail_bytes, follow=follow), pipe)
            case CopyOut(path=path):
                return await _send_all(await self._runtime.copy_out(call.instance, path), pipe)
            case CopyIn(directory=directory):
                await self._runtime.copy_in(call.instance, directory, _received(pipe))
                return 0
            case Usage():
                await pipe.send(data_frame(STDOUT, encode(self._usage(call.instance))))
                return 0


async def _exec(session: ExecSession, pipe: Pipe) -> int | None:
    """Both directions at once. The client's leaving ends the process, the process's end the conversation."""

    async def output() -> int:
        async for name, data in session.output():
            for part in _parts(data):
                await pipe.send(data_frame(STDOUT if name == "out" else STDERR, part))
        return await session.wait()

    return await _until_left(output(), _input(session, pipe))


async def _input(session: ExecSession, pipe: Pipe) -> None:
    while (message := await pipe.receive()) is not None:
        match parse(message):
            case (0, bytes(data)):
                await session.write(data)
            case Resize(rows=rows, columns=columns) if 0 < rows <= TERMINAL_MAX and 0 < columns <= TERMINAL_MAX:
                await session.resize(rows, columns)
            case Signal(number=number) if number in SIGNALS:
                await session.signal(number)
            case _:
                raise NotAFrame("not for a process's input")


async def _send_all(data: AsyncIterator[bytes], pipe: Pipe) -> int | None:
    async def output() -> int:
        async for piece in data:
            for part in _parts(piece):
                await pipe.send(data_frame(STDOUT, part))
        return 0

    async def listen() -> None:
        while await pipe.receive() is not None:
            pass

    return await _until_left(output(), listen())


async def _until_left(output: Coroutine[Any, Any, int], listening: Coroutine[Any, Any, None]) -> int | None:
    sending, hearing = asyncio.ensure_future(output), asyncio.ensure_future(listening)
    try:
        await asyncio.wait((sending, hearing), return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            return sending.result()
        hearing.result()
        return None
    finally:
        for task in (sending, hearing):
            task.cancel()
            with suppress(asyncio.CancelledError, PipeClosed, Exception):
                await task


async def _received(pipe: Pipe) -> AsyncIterator[bytes]:
    """Stdin frames up to the empty one; a client that leaves before it breaks the copy off."""
    while True:
        message = await pipe.receive()
        if message is None:
            raise PipeClosed("the sender left before the end")
        match parse(message):
            case (0, b""):
                return
            case (0, bytes(data)):
                yield data
            case _:
                raise NotAFrame("not a part of an archive")


def _parts(data: bytes) -> list[bytes]:
    return [data[start : start + MESSAGE_BYTES_MAX] for start in range(0, len(data), MESSAGE_BYTES_MAX)]
