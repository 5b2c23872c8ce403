"""What every plane's main program shares: its arguments, its liveness socket, its signals.

    python -m skerry.apps.<plane> --config FILE [--liveness-fd N]

The liveness descriptor is one end of a socket pair whose other end only the supervisor holds. The plane writes
`ready` to it once it serves; when it reads end-of-file, the supervisor has ended (or been killed) and the plane
shuts down and cleans up. SIGTERM and SIGINT do the same. Without the descriptor only the signals count.

    def main() -> None:
        run_plane(ControlConfig, serve)

    async def serve(config: ControlConfig, plane: Plane) -> None:
        async with ...:
            plane.ready()
            await plane.ended()     # then leave the `async with` blocks: clean up
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from skerry.kit import record

C = TypeVar("C", bound=record.Record)

READY_WORD = b"ready\n"
CONFIG_BYTES_MAX = 4 << 20  # a few hundred sites with their places


class BadArguments(Exception):
    """The command line or the configuration file is not understood."""


class Plane:
    """The plane's side of its supervision."""

    def __init__(self, liveness_fd: int | None) -> None:
        self._ended = asyncio.Event()
        self._socket = None if liveness_fd is None else socket.socket(fileno=liveness_fd)
        self.reason = ""

    def watch(self) -> None:
        """Listen to signals and to the liveness socket; needs the running loop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end, signal.Signals(number).name)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a closed terminal is the supervisor's business
        if self._socket is not None:
            self._socket.set_inheritable(False)
            self._socket.setblocking(False)
            loop.add_reader(self._socket.fileno(), self._on_readable)

    def ready(self) -> None:
        """Tell the supervisor that this plane serves. Once; later calls say the same again."""
        if self._socket is not None:
            try:
                self._socket.send(READY_WORD)
            except OSError:
                self._end("the supervisor is gone")

    def restart(self, reason: str) -> None:
        """Shut down, to be started again by the supervisor."""
        self._end(reason)

    async def ended(self) -> None:
        """Returns when the plane has to shut down; `reason` says why."""
        await self._ended.wait()

    @property
    def supervisor_gone(self) -> bool:
        """The supervisor closed its end (as it does to end everything) or died."""
        return self._socket is not None and self._ended.is_set() and self.reason.startswith("the supervisor")

    def _on_readable(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(64)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._end("the supervisor ended")

    def _end(self, reason: str) -> None:
        self.reason = self.reason or reason
        self._ended.set()


def parse_arguments(arguments: list[str]) -> tuple[Path, int | None]:
    """`--config FILE [--liveness-fd N]`; raises `BadArguments`. By hand: argparse costs each start 10 ms."""
    values = dict(zip(arguments[::2], arguments[1::2], strict=False))
    unknown = values.keys() - {"--config", "--liveness-fd"}
    if len(arguments) % 2 or unknown or "--config" not in values:
        raise BadArguments("usage: --config FILE [--liveness-fd N]")
    descriptor = values.get("--liveness-fd")
    if descriptor is None:
        return Path(values["--config"]), None
    if not (descriptor.isascii() and descriptor.isdigit()):
        raise BadArguments(f"--liveness-fd {descriptor}: not a number")
    return Path(values["--config"]), int(descriptor)


def read_config(path: Path, as_type: type[C]) -> C:
    """Raises `BadArguments` with the file's name and what is wrong in it."""
    import msgspec

    try:
        with path.open("rb") as file:
            data = file.read(CONFIG_BYTES_MAX + 1)
        if len(data) > CONFIG_BYTES_MAX:
            raise BadArguments(f"{path}: larger than {CONFIG_BYTES_MAX} bytes")
        return record.decode(data, as_type)
    except (OSError, msgspec.DecodeError) as error:
        raise BadArguments(f"{path}: {error}") from error


def read_secret(path: str) -> str:
    """The one line of a secret's file."""
    return Path(path).read_text("ascii").strip()


def run_plane(config_type: type[C], serve: Callable[[C, Plane], Awaitable[None]]) -> None:
    """Run `serve` until it returns; exit code 2 for bad arguments, 1 for an error, 0 for a clean end."""
    try:
        path, liveness_fd = parse_arguments(sys.argv[1:])
        config = read_config(path, config_type)
    except BadArguments as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    os.umask(0o077)
    os.chdir("/")

    async def run() -> None:
        plane = Plane(liveness_fd)
        plane.watch()
        await serve(config, plane)

    _runner()(run())


def _runner() -> Callable[..., object]:
    try:
        import uvloop
    except ImportError:  # no wheel for this machine: slower, not different
        return asyncio.run
    return uvloop.run
