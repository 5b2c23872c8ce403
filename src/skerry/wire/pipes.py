"""The server's end of a WebSocket as a pipe of calls: binary messages, nothing else."""

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from skerry.kit.frames import MESSAGE_BYTES_MAX
from skerry.ports.calls import PipeClosed

POLICY_VIOLATION = 1008  # RFC 6455, section 7.4.1
SOCKET_BYTES_MAX = MESSAGE_BYTES_MAX + 1  # a frame's kind and its data


class SocketPipe:
    """Of a socket that has been accepted."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket

    async def send(self, message: bytes) -> None:
        try:
            await self._socket.send_bytes(message)
        except (WebSocketDisconnect, RuntimeError) as error:  # RuntimeError: closed from this side
            raise PipeClosed("the other end has left") from error

    async def receive(self) -> bytes | None:
        try:
            message = await self._socket.receive()
        except RuntimeError:  # after a disconnect
            return None
        if message["type"] != "websocket.receive" or not isinstance(message.get("bytes"), bytes):
            return None
        return bytes(message["bytes"])

    async def aclose(self) -> None:
        if WebSocketState.DISCONNECTED in (self._socket.client_state, self._socket.application_state):
            return
        try:
            await self._socket.close()
        except (WebSocketDisconnect, RuntimeError):
            return
