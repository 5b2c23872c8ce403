"""A further process in a container, by the runtime's `exec`.

With a terminal the runtime gets a pseudo-terminal of ours, as if somebody sat at it, and carries bytes and sizes between
that one and the container's own.
"""

import asyncio
import contextlib
import fcntl
import itertools
import os
import signal
import struct
import termios
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Literal

from skerry.adapters.process import detached
from skerry.adapters.process.detached import write_private
from skerry.adapters.sandbox.oci.bundle import process
from skerry.adapters.sandbox.oci.places import Places
from skerry.adapters.sandbox.oci.runtimes import Runtime
from skerry.kit.record import encode
from skerry.ports.sandbox import ExecSpec, Gone, SandboxError, SandboxSpec

CHUNK_BYTES = 64 << 10
STARTED_S_MAX = 30.0
_JOIN = 'while [ "$1" != -- ]; do echo 0 > "$1" || exit 112; shift; done; shift; exec "$@"'
_numbers = itertools.count(1)
Kind = Literal["out", "err"]


class OciSession:
    """`skerry.ports.sandbox.ExecSession`. `master` is our end of the pseudo-terminal, or -1."""

    def __init__(
        self,
        runtime: Runtime,
        client: asyncio.subprocess.Process,
        files: list[Path],
        master: int,
        *,
        sandbox: str,
        tell: Callable[..., tuple[str, ...]],
    ) -> None:
        self._runtime = runtime
        self._sandbox = sandbox
        self._tell = tell  # the command line for a word to the runtime
        self._client = client
        self._pid_file, self._others = files[0], files
        self._master = master
        self._chunks: asyncio.Queue[tuple[Kind, bytes] | None] = asyncio.Queue(1)
        self._readers: list[asyncio.Task[None]] = []
        self._open = 0

    async def begin(self) -> None:
        if self._master >= 0:
            reader = await _terminal_reader(self._master)
            self._readers = [asyncio.create_task(self._read("out", reader))]
        else:
            assert self._client.stdout is not None
            assert self._client.stderr is not None
            streams: tuple[tuple[Kind, asyncio.StreamReader], ...] = (("out", self._client.stdout), ("err", self._client.stderr))
            self._readers = [asyncio.create_task(self._read(kind, stream)) for kind, stream in streams]
        self._open = len(self._readers)

    async def write(self, data: bytes) -> None:
        if self._master >= 0:
            await _write_terminal(self._master, data or b"\x04")  # what a user types for end-of-file
            return
        stdin = self._client.stdin
        assert stdin is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if data:
                stdin.write(data)
                await stdin.drain()
            else:
                stdin.close()

    async def output(self) -> AsyncIterator[tuple[Kind, bytes]]:
        while self._open or not self._chunks.empty():
            chunk = await self._chunks.get()
            if chunk is None:
                self._open -= 1
            else:
                yield chunk

    async def resize(self, rows: int, columns: int) -> None:
        if self._master < 0:
            return
        set_size(self._master, rows, columns)
        inside = None if self._runtime.is_gvisor else await self._inside()
        if inside is not None:
            _set_size_inside(inside.pid, rows, columns)
            inside.close()

    async def signal(self, number: int) -> None:
        if self._runtime.is_gvisor:
            await self._signal_guest(number)
            return
        inside = await self._inside()
        if inside is not None:
            inside.signal(number)
            inside.close()

    async def wait(self) -> int:
        code = await self._client.wait()
        return code if code >= 0 else 128 - code

    async def aclose(self) -> None:
        if self._client.returncode is None:
            await self._kill()
        for reader in self._readers:
            reader.cancel()
        if self._readers:
            await asyncio.wait(self._readers)
        if self._master >= 0:
            os.close(self._master)
            self._master = -1
        for path in self._others:
            path.unlink(missing_ok=True)

    async def _signal_guest(self, number: int) -> None:
        """A process of gVisor's kernel: the host does not see it."""
        async with asyncio.timeout(STARTED_S_MAX):
            while self._client.returncode is None and not self._pid_file.exists():  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        if self._client.returncode is None:
            with contextlib.suppress(OSError):
                argv = self._tell("kill", "--pid", self._pid_file.read_text().strip(), self._sandbox, str(int(number)))
                quiet = asyncio.subprocess.DEVNULL
                await (await asyncio.create_subprocess_exec(*argv, stdin=quiet, stdout=quiet, stderr=quiet)).wait()

    async def _kill(self) -> None:
        if self._runtime.is_gvisor:
            await self._signal_guest(signal.SIGKILL)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._client.wait(), 5)
        inside = None if self._runtime.is_gvisor else await self._inside()
        if inside is not None:
            for pid in descendants(inside.pid):
                child = detached.open_pid(pid)
                if child is not None:
                    child.signal(signal.SIGKILL)
                    child.close()
            inside.signal(signal.SIGKILL)
            inside.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._client.wait(), 5)
        with contextlib.suppress(ProcessLookupError):
            self._client.kill()
        await self._client.wait()

    async def _inside(self) -> detached.Detached | None:
        """The process in the container, as the host sees it; None if it has ended or never was."""
        async with asyncio.timeout(STARTED_S_MAX):
            while self._client.returncode is None:
                with contextlib.suppress(OSError, ValueError):
                    return detached.open_pid(int(self._pid_file.read_text()))
                await asyncio.sleep(0.002)
        return None

    async def _read(self, kind: Kind, stream: asyncio.StreamReader) -> None:
        try:
            while data := await stream.read(CHUNK_BYTES):
                await self._chunks.put((kind, data))
        except OSError:
            pass  # a terminal whose other end is closed
        await self._chunks.put(None)


async def open_session(
    runtime: Runtime, places: Places, sandbox: SandboxSpec, spec: ExecSpec, *, launcher: tuple[str, ...], join: tuple[str, ...]
) -> OciSession:
    """Returns when the runtime has been started; what it cannot start is told by its output and code."""
    bundle, number = places.bundle(sandbox.id), next(_numbers)
    pid_file, description = bundle / f"exec-{number}.pid", bundle / f"exec-{number}.json"
    try:
        write_private(description, encode(process(sandbox, spec)))
    except FileNotFoundError as error:
        raise Gone(f"{sandbox.id} has ended") from error
    pid_of = "internal-pid-file" if runtime.is_gvisor else "pid-file"
    terminal = ("--tty",) if spec.terminal and not runtime.is_gvisor else ()  # that one reads it in the description
    asked = (f"--process={description}", f"--{pid_of}={pid_file}", *terminal)
    command = runtime.command(places.state, None, "exec", *asked, sandbox.id)
    argv = ("/bin/sh", "-c", _JOIN, "sh", *join, "--", *launcher, *command)
    master = -1
    try:
        if spec.terminal:
            master, client = await _at_terminal(argv, spec)
        else:
            pipe = asyncio.subprocess.PIPE
            client = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
    except OSError as error:
        raise SandboxError(f"{runtime.name} exec: {error}") from error

    def tell(*words: str) -> tuple[str, ...]:
        return (*launcher, *runtime.command(places.state, None, *words))

    session = OciSession(runtime, client, [pid_file, description], master, sandbox=sandbox.id, tell=tell)
    await session.begin()
    return session


def set_size(terminal: int, rows: int, columns: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def _set_size_inside(pid: int, rows: int, columns: int) -> None:
    """Not all versions of crun pass a new size on."""
    with contextlib.suppress(OSError):
        terminal = os.open(f"/proc/{pid}/fd/0", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if os.isatty(terminal):
                set_size(terminal, rows, columns)
        finally:
            os.close(terminal)


def descendants(pid: int) -> list[int]:
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in path.read_text().split():
                found += [int(child), *descendants(int(child))]
    return found


async def _at_terminal(argv: tuple[str, ...], spec: ExecSpec) -> tuple[int, asyncio.subprocess.Process]:
    master, slave = os.openpty()
    try:
        set_size(master, spec.rows, spec.columns)
        client = await asyncio.create_subprocess_exec("/usr/bin/setsid", "--ctty", *argv, stdin=slave, stdout=slave, stderr=slave)
    except BaseException:
        os.close(master)
        raise
    finally:
        os.close(slave)
    return master, client


async def _terminal_reader(master: int) -> asyncio.StreamReader:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    file = os.fdopen(os.dup(master), "rb", buffering=0)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)
    return reader


async def _write_terminal(master: int, data: bytes) -> None:
    loop = asyncio.get_running_loop()
    rest = memoryview(data)
    os.set_blocking(master, False)
    while rest:
        try:
            rest = rest[os.write(master, rest) :]
        except BlockingIOError:
            ready = loop.create_future()
            loop.add_writer(master, ready.set_result, None)
            try:
                await ready
            finally:
                loop.remove_writer(master)
        except OSError:
            return  # it has ended
