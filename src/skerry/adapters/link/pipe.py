"""The client's end of a WebSocket as a pipe of calls."""

from collections.abc import Sequence

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from skerry.kit.frames import MESSAGE_BYTES_MAX
from skerry.ports.calls import Pipe, PipeClosed
from skerry.ports.links import Unreachable

CONNECT_S_MAX = 5.0


class ClientPipe:
    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def send(self, message: bytes) -> None:
        try:
            await self._connection.send(message)
        except ConnectionClosed as error:
            raise PipeClosed("the other end has left") from error

    async def receive(self) -> bytes | None:
        try:
            message = await self._connection.recv()
        except ConnectionClosed:
            return None
        return message if isinstance(message, bytes) else None

    async def aclose(self) -> None:
        await self._connection.close()


async def open_pipe(url: str, headers: Sequence[tuple[bytes, bytes]]) -> Pipe:
    """To the plane above. Raises `Unreachable`."""
    try:
        connection = await connect(
            url.replace("http", "ws", 1),
            additional_headers=[(name.decode(), value.decode()) for name, value in headers],
            open_timeout=CONNECT_S_MAX,
            max_size=MESSAGE_BYTES_MAX + 1,
            compression=None,
            proxy=None,
        )
    except (OSError, TimeoutError, InvalidHandshake, InvalidURI) as error:
        raise Unreachable(f"{url}: {type(error).__name__} {error}") from error
    return ClientPipe(connection)
