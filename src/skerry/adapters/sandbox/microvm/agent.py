"""The host's side of the agent protocol: one session with the PID 1 of one microVM.

    agent = await GuestAgent.open(reader, writer)     # HELLO until WELCOME
    await agent.run(fields)                           # a fresh guest: CONFIG..., RUN
    await agent.exited                                # the program's end

A lost stream fails what waits with `AgentLost`; whoever holds the machine decides what that means.
"""

import asyncio
import contextlib
import secrets
import struct
from collections.abc import AsyncIterator, Sequence
from typing import Literal

from skerry.adapters.sandbox.microvm import fields
from skerry.adapters.sandbox.microvm.protocol import (
    CHANNELS_MAX,
    PAYLOAD_BYTES_MAX,
    WINDOW_BYTES,
    Frame,
    GuestState,
    Parser,
    Type,
    frame,
    packed,
    padding,
)
from skerry.ports.sandbox import ExecSpec, Exit, Gone, SandboxError, StartError

HELLO_TIMEOUT_S = 30  # a guest without hardware virtualization on a busy machine
HELLO_AGAIN_S = 1.0
FAULT_PROGRAM = 1
READ_BYTES = 256 * 1024
CHUNK_BYTES = 32 * 1024


class AgentLost(Gone):
    """The stream to the guest has ended."""


class Channel:
    """A process beside the program, or a copy; what `ExecSession` wants of it."""

    def __init__(self, agent: "GuestAgent", number: int) -> None:
        self.number = number
        self.code: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._agent = agent
        self._parts: asyncio.Queue[tuple[Literal["out", "err"], bytes] | None] = asyncio.Queue()
        self._window = WINDOW_BYTES
        self._held_bytes = 0
        self._may_send = asyncio.Event()
        self._may_send.set()

    def take(self, found: Frame) -> None:
        if found.type in (Type.OUT, Type.ERR):
            self._hold("out" if found.type == Type.OUT else "err", found.payload)
        elif found.type == Type.CREDIT and len(found.payload) == 4:
            self._window = min(WINDOW_BYTES, self._window + int.from_bytes(found.payload, "little"))
            self._may_send.set()
        elif found.type == Type.ENDED and len(found.payload) == 4:
            self._end(int.from_bytes(found.payload, "little"))

    def lose(self) -> None:
        self._end(None)

    def _hold(self, kind: Literal["out", "err"], data: bytes) -> None:
        self._held_bytes += len(data)
        if self._held_bytes > WINDOW_BYTES:
            self._agent.distrust()  # more than it may send: nothing that we wrote does that
        else:
            self._parts.put_nowait((kind, data))

    async def write(self, data: bytes) -> None:
        if not data:
            self._send(Type.EOF)
        while data and not self.code.done():
            while self._window == 0 and not self.code.done():
                self._may_send.clear()
                await self._may_send.wait()
            part = data[: min(self._window, CHUNK_BYTES)]
            self._window -= len(part)
            self._send(Type.DATA, part)
            data = data[len(part) :]

    async def output(self) -> AsyncIterator[tuple[Literal["out", "err"], bytes]]:
        while (part := await self._parts.get()) is not None:
            yield part
            self._held_bytes -= len(part[1])
            self._send(Type.WINDOW, struct.pack("<I", len(part[1])))
        self._parts.put_nowait(None)  # for who asks again

    async def resize(self, rows: int, columns: int) -> None:
        self._send(Type.TTY_SIZE, fields.size(rows, columns))

    async def signal(self, number: int) -> None:
        self._send(Type.SIGNAL, struct.pack("<I", number))

    async def wait(self) -> int:
        return await asyncio.shield(self.code)

    async def aclose(self) -> None:
        if not self.code.done():
            self._send(Type.CLOSE)
            self._end(137)
        self._agent.release(self)

    def _send(self, kind: Type, payload: bytes = b"") -> None:
        if not self.code.done():
            self._agent.send(kind, self.number, payload)

    def _end(self, code: int | None) -> None:
        if self.code.done():
            return
        if code is None:
            self.code.set_exception(AgentLost("the sandbox has ended"))
            self.code.exception()  # told to whoever waits; nobody has to
        else:
            self.code.set_result(code)
        self._parts.put_nowait(None)
        self._may_send.set()


class GuestAgent:
    """`state` is the guest's when the session began; `exited` is done when its program has ended."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        self.state = GuestState.FRESH
        self.exited: asyncio.Future[Exit] = loop.create_future()
        self.lost: asyncio.Future[None] = loop.create_future()
        self._reader, self._writer = reader, writer
        self._nonce = secrets.token_bytes(16)
        self._welcome: asyncio.Future[None] = loop.create_future()
        self._answers: dict[int, asyncio.Future[bytes]] = {}
        self._channels: dict[int, Channel] = {}
        self._last = 0
        self._reading = loop.create_task(self._read())

    @classmethod
    async def open(
        cls, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, timeout_s: float = HELLO_TIMEOUT_S
    ) -> "GuestAgent":
        """Raises `AgentLost` when the guest does not answer."""
        agent = cls(reader, writer)
        try:
            async with asyncio.timeout(timeout_s):
                await agent._greet()
        except TimeoutError:
            await agent.aclose()
            raise AgentLost(f"the guest did not answer within {timeout_s:.0f} s") from None
        except BaseException:
            await agent.aclose()
            raise
        return agent

    async def run(self, config: Sequence[bytes]) -> int:
        """Start the program of a fresh guest: its process id there. Raises `StartError` (its own fault) or `SandboxError`."""
        for payload in packed(list(config)):
            self.send(Type.CONFIG, 0, payload)
            await self._drain()
        answer = await self.request(Type.RUN)
        self.state = GuestState.RUNNING
        return int.from_bytes(answer[:4], "little")

    async def take_identity(self, config: Sequence[bytes]) -> None:
        """After a resume from a snapshot."""
        await self.request(Type.IDENTITY, b"".join(config))

    async def limit(self, config: Sequence[bytes]) -> None:
        await self.request(Type.LIMITS, b"".join(config))

    async def stats(self) -> fields.GuestStats:
        """How full what its program has is. Raises `SandboxError`."""
        return fields.guest_stats(await self.request(Type.STATS))

    async def ping(self) -> None:
        await self.request(Type.PING)

    def signal_program(self, number: int) -> None:
        self.send(Type.SIGNAL, 0, struct.pack("<I", number))

    async def exec(self, spec: ExecSpec) -> Channel:
        return await self._open_channel(Type.EXEC, b"".join(fields.process(spec)))

    async def copy_out(self, config: bytes) -> AsyncIterator[bytes]:
        """A tar archive. Raises `SandboxError` with what the guest says when it cannot be read."""
        channel = await self._open_channel(Type.COPY_OUT, config)
        errors = b""
        try:
            async for kind, data in channel.output():
                if kind == "out":
                    yield data
                else:
                    errors = (errors + data)[-2000:]
            if await channel.wait() != 0:
                raise SandboxError(errors.decode(errors="replace").strip() or "it cannot be read")
        finally:
            await channel.aclose()

    async def copy_in(self, config: bytes, archive: AsyncIterator[bytes]) -> None:
        channel = await self._open_channel(Type.COPY_IN, config)
        try:
            errors = asyncio.create_task(_gather(channel))
            async for data in archive:
                await channel.write(data)
            await channel.write(b"")
            if await channel.wait() != 0:
                raise SandboxError((await errors).decode(errors="replace").strip() or "it cannot be written")
            await errors
        finally:
            await channel.aclose()

    async def request(self, kind: Type, payload: bytes = b"") -> bytes:
        """Its answer. Raises `StartError` or `SandboxError` with the guest's words, `AgentLost` when the stream ends."""
        number = self._free_number()
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        try:
            self.send(kind, number, payload)
            await self._drain()
            return await answer
        finally:
            self._answers.pop(number, None)

    def send(self, kind: Type, channel: int, payload: bytes = b"") -> None:
        if not self.lost.done():
            self._writer.write(frame(kind, channel, payload))

    def distrust(self) -> None:
        """The guest does not keep to the protocol: no further word with it."""
        self._writer.close()
        self._lose()

    def release(self, channel: Channel) -> None:
        self._channels.pop(channel.number, None)

    async def aclose(self) -> None:
        self._reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reading
        self._writer.close()
        self._lose()

    async def _open_channel(self, kind: Type, payload: bytes) -> Channel:
        if len(payload) > PAYLOAD_BYTES_MAX:
            raise SandboxError(f"a command of {len(payload)} bytes; at most {PAYLOAD_BYTES_MAX}")
        if len(self._channels) >= CHANNELS_MAX:
            raise SandboxError(f"{CHANNELS_MAX} processes were started here already; wait until one has ended")
        number = self._free_number()
        channel = self._channels[number] = Channel(self, number)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        try:
            self.send(kind, number, payload)
            await self._drain()
            await answer
        except BaseException:
            self.release(channel)
            raise
        finally:
            self._answers.pop(number, None)
        return channel

    def _free_number(self) -> int:
        while True:
            self._last = self._last % 65535 + 1
            if self._last not in self._channels and self._last not in self._answers:
                return self._last

    async def _greet(self) -> None:
        hello = frame(Type.HELLO, 0, self._nonce)
        self._writer.write(hello)
        while not self._welcome.done():
            await asyncio.wait([self._welcome, self.lost], timeout=HELLO_AGAIN_S, return_when=asyncio.FIRST_COMPLETED)
            if self.lost.done():
                raise AgentLost("the guest ended before it answered")
            if not self._welcome.done():
                self._writer.write(padding() + hello)
                await self._drain()

    async def _read(self) -> None:
        parser = Parser()
        with contextlib.suppress(OSError):
            while data := await self._reader.read(READ_BYTES):
                for found in parser.feed(data):
                    self._take(found)
        self._lose()

    def _take(self, found: Frame) -> None:
        if found.type == Type.WELCOME:
            if found.payload[:16] == self._nonce and len(found.payload) == 24 and not self._welcome.done():
                self.state = GuestState(found.payload[16]) if found.payload[16] in list(GuestState) else GuestState.FRESH
                self._welcome.set_result(None)
        elif not self._welcome.done():
            pass  # of the session before
        elif found.type in (Type.DONE, Type.FAILED):
            self._answer(found)
        elif found.type == Type.EXITED and len(found.payload) >= 5:
            self._take_exit(found.payload)
        elif (channel := self._channels.get(found.channel)) is not None:
            channel.take(found)

    def _answer(self, found: Frame) -> None:
        answer = self._answers.get(found.channel)
        if found.channel == 0:  # of no request: what was told before RUN could not be done
            answer = next(iter(self._answers.values()), None)
        if answer is None or answer.done():
            return
        if found.type == Type.DONE:
            answer.set_result(found.payload)
        else:
            text = found.payload[1:].decode(errors="replace")
            answer.set_exception(
                StartError(text) if found.payload[:1] == bytes([FAULT_PROGRAM]) else SandboxError(f"guest: {text}")
            )

    def _take_exit(self, payload: bytes) -> None:
        code = int.from_bytes(payload[:4], "little")
        self.state = GuestState.EXITED
        if not self.exited.done():
            self.exited.set_result(Exit(code=code, out_of_memory=bool(payload[4])))
        self.send(Type.EXIT_SEEN, 0)
        for channel in tuple(self._channels.values()):
            channel.lose()

    async def _drain(self) -> None:
        with contextlib.suppress(OSError):
            await self._writer.drain()

    def _lose(self) -> None:
        if self.lost.done():
            return
        self.lost.set_result(None)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(AgentLost("the sandbox has ended"))
        for channel in tuple(self._channels.values()):
            channel.lose()


async def _gather(channel: Channel) -> bytes:
    return b"".join([data async for _, data in channel.output()])[-2000:]
