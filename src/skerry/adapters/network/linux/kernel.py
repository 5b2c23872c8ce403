"""The one thread of a node that speaks with the kernel: netlink and nftables block, and take turns anyway."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Concatenate, ParamSpec, TypeVar

from skerry.adapters.network.linux.devices import Route, open_netlink
from skerry.adapters.network.linux.nft import Nft
from skerry.ports.network import NetworkError

T = TypeVar("T")
P = ParamSpec("P")


class KernelError(NetworkError):
    """A step was refused; the text says which, in the kernel's words."""


class Hands:
    """What works in the thread: both sockets, opened there."""

    def __init__(self) -> None:
        self.nft = Nft()
        self.route: Route = open_netlink()

    def close(self) -> None:
        self.nft.close()
        self.route.close()


class Kernel:
    """Of the network namespace that the thread is in which makes it: its own is started from there."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="network")
        self._hands: Hands | None = None
        self._closed = threading.Event()

    async def run(self, work: Callable[Concatenate[Hands, P], T], *arguments: P.args, **named: P.kwargs) -> T:
        """Raises `NetworkError`. One that was begun is finished, whoever waits for it or not."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: self._do(work, *arguments, **named))

    def _do(self, work: Callable[Concatenate[Hands, P], T], *arguments: P.args, **named: P.kwargs) -> T:
        if self._hands is None:
            self._hands = Hands()
        try:
            return work(self._hands, *arguments, **named)
        except NetworkError:
            raise
        except Exception as error:
            if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] != "pyroute2":
                raise
            raise KernelError(f"network: {error}") from error

    async def aclose(self) -> None:
        """After what is under way."""
        if not self._closed.is_set():
            self._closed.set()
            await asyncio.get_running_loop().run_in_executor(self._pool, self._drop)
            self._pool.shutdown(wait=False)

    def _drop(self) -> None:
        if self._hands is not None:
            self._hands.close()
            self._hands = None
