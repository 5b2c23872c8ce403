"""The contract of sandbox engines on QEMU, with real guests."""

import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from skerry.adapters.sandbox.qemu.engine import find_host
from skerry.ports.sandbox import EngineUnavailable
from skerry.testing.contracts.sandbox_real import RealSandboxContract
from skerry.testing.microvm import busybox_disk
from skerry.testing.qemu_node import QemuHarness

pytestmark = [pytest.mark.root, pytest.mark.engine("qemu"), pytest.mark.timeout(300)]


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
