"""QMP, the control protocol of QEMU (docs/interop/qmp-spec): one JSON object a line, over a socket that can pass descriptors.

The library for it, qemu.qmp, brings a legacy layer, a shell and an event machinery; what is needed here is this page.
"""

import array
import asyncio
import socket
from pathlib import Path
from typing import Any

import msgspec

from skerry.adapters.sandbox.microvm import sockets

LINE_BYTES_MAX = 1 << 20  # of an answer: a monitor that a guest has taken over must not fill our memory
CALL_TIMEOUT_S = 30


class QmpError(Exception):
    """QEMU refuses a command, in its own words."""


class QmpLost(QmpError):
    """QEMU has ended, or does not answer."""


class Qmp:
    """One connection. Commands are answered in order; one at a time is sent."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = bytearray()
        self._lock = asyncio.Lock()
        self.events: list[str] = []

    @classmethod
    async def open(cls, directory: Path, name: str) -> "Qmp":
        """Raises `OSError` or `QmpLost`."""
        qmp = cls(await sockets.connect(directory, name))
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                await qmp._read_line()  # the greeting
            await qmp.call("qmp_capabilities")
        except BaseException:
            qmp.close()
            raise
        return qmp

    async def call(self, command: str, *, timeout_s: float = CALL_TIMEOUT_S, fd: int | None = None, **arguments: object) -> Any:
        """What it returns. Raises `QmpError`, `QmpLost`. `fd` goes with the command (getfd)."""
        line = msgspec.json.encode({"execute": command, **({"arguments": arguments} if arguments else {})}) + b"\n"
        async with self._lock:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._send(line, fd)
                    while True:
                        answer = await self._read_line()
                        if "return" in answer:
                            return answer["return"]
                        if "error" in answer:
                            raise QmpError(f"{command}: {answer['error'].get('desc', '')}")
                        self._note(answer)
            except TimeoutError:
                self.close()  # its answer would be taken for that of the next command
                raise QmpLost(f"{command}: no answer within {timeout_s:.0f} s") from None
            except asyncio.CancelledError:
                self.close()
                raise

    def close(self) -> None:
        self._connection.close()

    def _note(self, event: dict[str, Any]) -> None:
        self.events = [*self.events[-100:], str(event.get("event", ""))]

    async def _send(self, line: bytes, fd: int | None) -> None:
        try:
            if fd is None:
                await asyncio.get_running_loop().sock_sendall(self._connection, line)
            else:  # a short line into an empty socket buffer: it is taken whole
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
                self._connection.sendmsg([line], rights)
        except OSError as error:
            raise QmpLost(f"the monitor is gone: {error}") from error

    async def _read_line(self) -> dict[str, Any]:
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > LINE_BYTES_MAX:
                raise QmpLost("an answer without an end")
            try:
                data = await asyncio.get_running_loop().sock_recv(self._connection, 65536)
            except OSError as error:
                raise QmpLost(f"the monitor is gone: {error}") from error
            if not data:
                raise QmpLost("the monitor has ended")
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            answer = msgspec.json.decode(line)
        except msgspec.DecodeError as error:
            raise QmpLost(f"not QMP: {line[:80]!r}") from error
        if not isinstance(answer, dict):
            raise QmpLost(f"not QMP: {line[:80]!r}")
        return answer  # pyright: ignore[reportUnknownVariableType]


async def wait_migrated(qmp: Qmp, *, timeout_s: float) -> None:
    """Until the migration (out or in) that was asked for is complete. Raises `QmpError` with the reason."""
    async with asyncio.timeout(timeout_s):
        delay_s = 0.001
        while True:
            state = await qmp.call("query-migrate")
            status = state.get("status", "none")
            if status == "completed":
                return
            if status in ("failed", "cancelled"):
                raise QmpError(f"migration {status}: {state.get('error-desc', '')}")
            await asyncio.sleep(delay_s)
            delay_s = min(0.02, delay_s * 1.5)
