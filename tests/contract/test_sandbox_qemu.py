"""The contract of sandbox engines on QEMU, with real guests."""

import os
import secrets
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from skerry.adapters.cgroup.probe import find_tree
from skerry.adapters.process import detached
from skerry.adapters.sandbox.microvm.settings import Places
from skerry.adapters.sandbox.qemu.engine import QemuEngine, find_host
from skerry.ports.sandbox import EngineUnavailable, Sandbox, SandboxEngine, SandboxSpec
from skerry.testing.contracts.sandbox import LIMITS
from skerry.testing.contracts.sandbox_real import RealSandboxContract
from skerry.testing.microvm import busybox_disk

pytestmark = [pytest.mark.root, pytest.mark.engine("qemu"), pytest.mark.timeout(300)]


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
        tree, _ = find_tree(f"skerry-{self._places.tag}")
        assert tree is not None
        return [
            *map(str, detached.find_tagged(self._places.tag)), *detached.names(self._places.processes), *tree.names(),
            *(path.name for path in self._places.machines.iterdir()),
        ]  # fmt: skip

    async def kill_program(self, sandbox: Sandbox) -> None:
        os.kill(sandbox.pid, signal.SIGKILL)

    async def close(self) -> None:
        if self._engine is not None:
            await self._engine.attach(frozenset())
            await self._engine.aclose()
        tree, _ = find_tree(f"skerry-{self._places.tag}")
        if tree is not None:
            tree.remove()


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return busybox_disk(tmp_path_factory.mktemp("disk"))


class TestQemuEngine(RealSandboxContract):
    @pytest.fixture
    async def harness(self, tmp_path: Path, disk: Path) -> AsyncIterator[QemuHarness]:
        try:
            find_host()
        except EngineUnavailable as error:
            pytest.skip(str(error))
        harness = QemuHarness(tmp_path, disk)
        yield harness
        await harness.close()


def test_the_disk_has_no_errors(disk: Path) -> None:
    assert subprocess.run(["/usr/sbin/e2fsck", "-fn", str(disk)], capture_output=True, check=False).returncode == 0
