"""A node with QEMU's guests and one disk, for tests: `skerry.testing.contracts.sandbox.SandboxHarness`."""

import os
import secrets
import signal
from pathlib import Path

from skerry.adapters.process import detached
from skerry.adapters.sandbox.microvm.engine import find_groups
from skerry.adapters.sandbox.microvm.settings import Places
from skerry.adapters.sandbox.qemu.engine import QemuEngine
from skerry.ports.sandbox import Sandbox, SandboxEngine, SandboxSpec
from skerry.testing.contracts.sandbox import LIMITS


class QemuHarness:
    real = True

    def __init__(self, root: Path, disk: Path) -> None:
        self._root, self._disk = root, disk
        self._places = Places(disk.parent / "data", disk.parent / "run")  # of all tests: they share the template
        self._engine: QemuEngine | None = None

    async def open(self, known: frozenset[str] = frozenset()) -> SandboxEngine:
        self._engine = QemuEngine(data=self._places.data, run=self._places.run)
        await self._engine.attach(known)
        return self._engine

    async def abandon(self, engine: SandboxEngine) -> None:
        await engine.aclose()

    async def spec(self, script: str) -> SandboxSpec:
        name = secrets.token_hex(8)
        return SandboxSpec(
            id=name, rootfs="/", argv=("/bin/sh", "-c", script), env={"PATH": "/bin"}, limits=LIMITS, netns="",
            disk=str(self._disk), log=str(self._root / f"{name}.log"),
        )  # fmt: skip

    async def leftovers(self) -> list[str]:
        """But for machines that wait for the next start, which are nobody's."""
        tree, _ = find_groups(self._places)
        assert tree is not None
        assert self._engine is not None
        await self._engine.settled()
        waiting = frozenset(self._engine.waiting)
        theirs = {pid for name in waiting for pid in tree.open(name).pids()}
        files = (self._places.machines, self._places.data / "waiting", self._places.data / "claims")
        names = (*detached.names(self._places.processes), *tree.names(), *(path.name for at in files for path in at.iterdir()))
        pids = [str(pid) for pid in detached.find_tagged(self._places.tag) if pid not in theirs]
        return [*pids, *(name for name in names if name not in waiting)]

    async def kill_program(self, sandbox: Sandbox) -> None:
        os.kill(sandbox.pid, signal.SIGKILL)

    async def close(self) -> None:
        if self._engine is not None:
            await self._engine.attach(frozenset())
            await self._engine.aclose()
        tree, _ = find_groups(self._places)
        if tree is not None:
            tree.remove()
