"""Files into and out of a container, by a process of ours that goes in: the image needs no program for it.

    python -m skerry.adapters.sandbox.oci.carry out|in PID PATH

It joins the container's user and mount namespaces and takes its root for its own, so that a link in the container leads to
somewhere in the container; it is in nobody's process namespace but ours, so that nothing inside can touch it.
gVisor's files are its own: there the image's `tar` does it.
"""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from typing import Protocol

from skerry.adapters.sandbox.oci.runtimes import Runtime
from skerry.ports.sandbox import ExecSession, ExecSpec, SandboxError, Unsupported

CHUNK_BYTES = 256 << 10
NO_TAR = "gVisor copies files by the image's own tar, and it has none"


class Enterable(Protocol):
    async def exec(self, spec: ExecSpec) -> ExecSession: ...


async def copy_out(sandbox: Enterable, runtime: Runtime, pid: int, path: str) -> AsyncIterator[bytes]:
    if runtime.is_gvisor:
        parent, _, name = path.rstrip("/").rpartition("/")
        return _of_session(
            await sandbox.exec(ExecSpec(argv=("tar", "-c", "-f", "-", "-C", parent or "/", "--", name or "."))), path
        )
    return _of_carrier(await _carrier("out", pid, path), path)


async def copy_in(sandbox: Enterable, runtime: Runtime, pid: int, directory: str, archive: AsyncIterator[bytes]) -> None:
    if runtime.is_gvisor:
        await _into_session(await sandbox.exec(ExecSpec(argv=("tar", "-x", "-f", "-", "-C", directory))), directory, archive)
        return
    carrier = await _carrier("in", pid, directory)
    try:
        assert carrier.stdin is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            async for chunk in archive:
                carrier.stdin.write(chunk)
                await carrier.stdin.drain()
        carrier.stdin.close()
        await _finish(carrier, directory)
    finally:
        await _end(carrier)


async def _carrier(direction: str, pid: int, path: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-m", "skerry.adapters.sandbox.oci.carry", direction, str(pid), path,
        stdin=pipe if direction == "in" else asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe,
    )  # fmt: skip


async def _of_carrier(carrier: asyncio.subprocess.Process, path: str) -> AsyncIterator[bytes]:
    try:
        assert carrier.stdout is not None
        while data := await carrier.stdout.read(CHUNK_BYTES):
            yield data
        await _finish(carrier, path)
    finally:
        await _end(carrier)


async def _finish(carrier: asyncio.subprocess.Process, path: str) -> None:
    assert carrier.stderr is not None
    said = (await carrier.stderr.read()).decode(errors="replace").strip()
    if await carrier.wait() != 0:
        raise SandboxError(f"{path}: {said[-300:] or 'the container has ended'}")


async def _end(carrier: asyncio.subprocess.Process) -> None:
    if carrier.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            carrier.kill()
        await carrier.wait()


async def _of_session(session: ExecSession, path: str) -> AsyncIterator[bytes]:
    said = b""
    try:
        async for kind, data in session.output():
            if kind == "out":
                yield data
            else:
                said = (said + data)[-500:]
        _judge(await session.wait(), said, path)
    finally:
        await session.aclose()


async def _into_session(session: ExecSession, directory: str, archive: AsyncIterator[bytes]) -> None:
    said = bytearray()

    async def listen() -> None:
        async for _, data in session.output():
            said.extend(data[-500:])

    listening = asyncio.ensure_future(listen())
    try:
        async for chunk in archive:
            await session.write(chunk)
        await session.write(b"")
        code = await session.wait()
        await listening
        _judge(code, bytes(said), directory)
    finally:
        listening.cancel()
        await session.aclose()


def _judge(code: int, said: bytes, path: str) -> None:
    if code in (126, 127, 128) and b"tar" in said:
        raise Unsupported(NO_TAR)
    if code != 0:
        raise SandboxError(f"{path}: {said.decode(errors='replace').strip()[-300:]}")
