"""A node with the real worker runtime, for tests: its agents one after the other, and a look at what they leave."""

import asyncio
import os
import shutil
import signal
import tempfile
from pathlib import Path

from skerry.adapters.cgroup.probe import end_group, find_tree
from skerry.adapters.process import detached
from skerry.adapters.runtime.workerd.runtime import WorkerdRuntime
from skerry.adapters.runtime.workerd.settings import Places, Settings
from skerry.core.machines.instance import Backoff
from skerry.core.types.ids import InstanceId, NodeId
from skerry.core.types.slices import NodeInstance
from skerry.ports.runtime import Runtime
from skerry.testing.contracts.runtime import find
from skerry.testing.workers import HELLO, WorkerShop

TEST_SETTINGS = Settings(backoff=Backoff(first_ms=100, healthy_after_ms=60_000), look_every_ms=200)
PLATFORM = ("egress", "assets")  # processes of the node itself


class WorkerdNode:
    """`run_dir` is short and outside of pytest's long directories: it holds Unix sockets."""

    def __init__(self, root: Path, settings: Settings = TEST_SETTINGS) -> None:
        self.shop = WorkerShop()
        self.places = Places(root / "node", Path(tempfile.mkdtemp(prefix="sk")))
        self.settings = settings
        self._runtimes: list[WorkerdRuntime] = []

    def make(self) -> WorkerdRuntime:
        """The next agent's, not attached."""
        return WorkerdRuntime(
            node=NodeId("lhr-1"),
            address="127.0.0.1",
            data_dir=self.places.data,
            run_dir=self.places.run,
            fetch_blob=self.shop.fetch,
            settings=self.settings,
        )

    def opened(self, runtime: WorkerdRuntime) -> None:
        """It is to be closed by `clean_up`."""
        self._runtimes.append(runtime)

    async def open(self) -> WorkerdRuntime:
        runtime = self.make()
        await runtime.attach()
        self.opened(runtime)
        return runtime

    async def kill_agent(self, runtime: Runtime) -> None:
        await runtime.aclose(stop_instances=False)

    def good(self, name: str) -> NodeInstance:
        return self.shop.instance(name, f"console.log('hello');{HELLO}")

    def broken(self, name: str) -> NodeInstance:
        return self.shop.instance(name, "throw new Error('boom');")

    def cut_off(self, is_so: bool) -> None:
        self.shop.reachable = not is_so

    def fetches(self) -> int:
        return len(self.shop.fetched)

    async def request(self, address: str, path: str = "/", *, headers: str = "", method: str = "GET") -> int:
        return int((await self.exchange(address, path, headers=headers, method=method))[0].split()[1])

    async def exchange(
        self, address: str, path: str = "/", *, headers: str = "", method: str = "GET", body: bytes = b""
    ) -> tuple[str, bytes]:
        """(head, body) of the answer to one request on a connection of its own.

        As the ingress does, it tries an idempotent request again that no byte of an answer came for: a process that is
        being replaced can take a connection in the moment in which it ends.
        """
        try:
            return await self._exchange_once(address, path, headers=headers, method=method, body=body)
        except ConnectionResetError:
            if method not in ("GET", "HEAD"):
                raise
            return await self._exchange_once(address, path, headers=headers, method=method, body=body)

    async def _exchange_once(self, address: str, path: str, *, headers: str, method: str, body: bytes) -> tuple[str, bytes]:
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            length = f"Content-Length: {len(body)}\r\n" if body else ""
            writer.write(
                f"{method} {path} HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n{length}{headers}\r\n".encode() + body
            )
            async with asyncio.timeout(20):
                answer = await reader.read(-1)
        finally:
            writer.close()
        start, _, rest = answer.partition(b"\r\n\r\n")
        if not start:
            raise ConnectionResetError(f"no answer from {address}")
        return start.decode(), dechunked(start, rest)

    async def text(self, address: str, path: str = "/", **options: str) -> str:
        return (await self.exchange(address, path, **options))[1].decode()  # pyright: ignore[reportArgumentType]

    async def kill_process(self, runtime: Runtime, instance_id: InstanceId) -> None:
        seen = find(runtime, instance_id)
        pid = seen.pid if seen else None
        if pid is not None:
            process = detached.open_pid(pid)
            assert process is not None
            process.signal(signal.SIGKILL)
            await process.wait()
            process.close()

    async def leftovers(self) -> list[str]:
        """Everything of this node that is not the platform's own process: all of it, when the runtime was closed."""
        known = [name for name in detached.names(self.places.processes) if name.startswith(PLATFORM)]
        own = {pid for name in known for pid in self._pids(name)}
        found = [f"process {pid}" for pid in detached.find_tagged(self.places.tag) if pid not in own]
        tree, _ = find_tree(f"skerry-{self.places.tag}")
        found += [f"group {name}" for name in (tree.names() if tree else ()) if name not in known]
        for directory in (
            self.places.health,
            self.places.bindings,
            self.places.instances,
            self.places.processes,
        ):
            found += [str(path) for path in directory.glob("*") if path.stem not in known]
        found += [str(path) for path in self.places.logs.glob("*") if not path.name.startswith(PLATFORM)]
        return found + [line for line in detached.mounts() if str(self.places.run) in line or str(self.places.data) in line]

    async def clean_up(self) -> None:
        for runtime in self._runtimes[-1:]:
            await runtime.aclose(stop_instances=True)
        await detached.kill_tagged(self.places.tag)
        tree, _ = find_tree(f"skerry-{self.places.tag}")
        if tree is not None:
            for name in tree.names():
                await end_group(tree, name)
            tree.remove()
        shutil.rmtree(self.places.run, ignore_errors=True)

    def _pids(self, name: str) -> set[int]:
        process = detached.attach(name, records=self.places.processes)
        if process is None:
            return set()
        process.close()
        return {process.pid, *_descendants(process.pid)}


def dechunked(head: bytes, body: bytes) -> bytes:
    if b"transfer-encoding: chunked" not in head.lower():
        return body
    out = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        out, body = out + body[:length], body[length + 2 :]
    return out


def _descendants(pid: int) -> set[int]:
    try:
        children = {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    except OSError:
        return set()
    return children.union(*(_descendants(child) for child in children))


def is_root() -> bool:
    return os.geteuid() == 0
