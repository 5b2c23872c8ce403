"""The published address of an instance, as the agent holds it: connections that the kernel does not send straight on.

hold     accepted, they wait; each rings
open     those that waited, and stragglers that came before the kernel knew, are passed on by hand
refuse   answered at once
"""

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable
from typing import Literal

from skerry.adapters.network.linux.splice import reset, splice
from skerry.adapters.runtime.workerd.listeners import refuse_client
from skerry.core.types.program import Protocol as TrafficProtocol

Mode = Literal["hold", "open", "refuse"]
CONNECT_S_MAX = 10
ACCEPT_AGAIN_S = 1
ACCEPTS_PER_TURN = 64  # before other work of the agent gets its turn


class Door:
    """Owns the listener. `ring` is called for each connection that begins to wait."""

    def __init__(
        self,
        listener: socket.socket,
        target: tuple[str, int],
        protocol: TrafficProtocol,
        *,
        ring: Callable[[], None],
        waiting_max: int,
    ) -> None:
        self.mode: Mode = "hold"
        self.target = target
        self.protocol: TrafficProtocol = protocol
        self.listener = listener
        self._ring = ring
        self._waiting_max = waiting_max
        self._waiting: deque[socket.socket] = deque()
        self._passing: set[asyncio.Task[None]] = set()
        self._reason = ""
        self._accepting = False
        self._accept_more()

    @property
    def connections(self) -> int:
        """Those in the agent's hands."""
        return len(self._waiting) + len(self._passing)

    def hold(self) -> None:
        self.mode = "hold"
        self._accept_more()

    def open(self) -> None:
        self.mode = "open"
        while self._waiting:
            self._pass_on(self._waiting.popleft())
        self._accept_more()

    def refuse(self, reason: str) -> None:
        self.mode, self._reason = "refuse", reason
        while self._waiting:
            self._turn_away(self._waiting.popleft())
        self._accept_more()

    async def aclose(self) -> None:
        """Nobody is let in any more; who is in the agent's hands is cut off."""
        self._accept_no_more()
        self.listener.close()
        while self._waiting:
            reset(self._waiting.popleft())
        for task in self._passing:
            task.cancel()
        if self._passing:
            await asyncio.wait(self._passing)

    def _accept_more(self) -> None:
        if not self._accepting and self.listener.fileno() >= 0:
            asyncio.get_running_loop().add_reader(self.listener, self._accept)
            self._accepting = True

    def _accept_no_more(self) -> None:
        if self._accepting:
            asyncio.get_running_loop().remove_reader(self.listener)
            self._accepting = False

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            if self.mode == "hold" and len(self._waiting) >= self._waiting_max:
                self._accept_no_more()  # the rest waits in the kernel
                return
            try:
                client, _ = self.listener.accept()
            except BlockingIOError:
                return
            except OSError:  # no descriptors are left, say: it would be told at once again
                self._accept_no_more()
                asyncio.get_running_loop().call_later(ACCEPT_AGAIN_S, self._accept_more)
                return
            client.setblocking(False)
            self._take(client)

    def _take(self, client: socket.socket) -> None:
        if self.mode == "open":
            self._pass_on(client)
        elif self.mode == "refuse":
            self._turn_away(client)
        else:
            self._waiting.append(client)
            self._ring()

    def _turn_away(self, client: socket.socket) -> None:
        if self.protocol == "http":
            refuse_client(client, self._reason)
        else:
            reset(client)

    def _pass_on(self, client: socket.socket) -> None:
        task = asyncio.create_task(self._connect_and_pass(client))
        self._passing.add(task)
        task.add_done_callback(self._passing.discard)

    async def _connect_and_pass(self, client: socket.socket) -> None:
        server = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            async with asyncio.timeout(CONNECT_S_MAX):
                await asyncio.get_running_loop().sock_connect(server, self.target)
            for end in (client, server):
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await splice(client, server)
        except (OSError, TimeoutError):
            reset(client)
        finally:
            client.close()
            server.close()
