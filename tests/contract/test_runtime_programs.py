"""The runtime's contract on programs in real containers."""

from collections.abc import AsyncIterator

import pytest

from skerry.adapters import tools
from skerry.adapters.network.linux.probe import probe
from skerry.adapters.sandbox.oci import runtimes
from skerry.testing.contracts.runtime import ProgramRuntimeContract
from skerry.testing.oci_node import busybox
from skerry.testing.programs_node import ProgramsNode

NETWORK = probe()
BUSYBOX = busybox()

pytestmark = [
    pytest.mark.skipif(not NETWORK.usable, reason=f"networks: {NETWORK.rules}"),
    pytest.mark.skipif(BUSYBOX is None, reason="busybox: no static one (apt-get install busybox-static)"),
]


class _OnContainers(ProgramRuntimeContract):
    name: runtimes.Name

    @pytest.fixture
    async def harness(self) -> AsyncIterator[ProgramsNode]:
        assert BUSYBOX is not None
        node = ProgramsNode(runtimes.find(self.name), BUSYBOX.read_bytes())
        try:
            yield node
        finally:
            await node.clean_up()


@pytest.mark.skipif(not tools.find_crun().usable, reason=f"crun: {tools.find_crun().problem}")
class TestProgramsInCrun(_OnContainers):
    name = "crun"


@pytest.mark.skipif(not tools.find_runsc().usable, reason=f"runsc: {tools.find_runsc().problem}")
class TestProgramsInGvisor(_OnContainers):
    name = "runsc"
