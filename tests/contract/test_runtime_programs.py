"""The runtime's contract on programs behind every kind of wall."""

from collections.abc import AsyncIterator

import pytest

from skerry.adapters import tools
from skerry.adapters.network.linux.probe import probe
from skerry.testing.contracts.runtime import ProgramRuntimeContract, RuntimeContract
from skerry.testing.oci_node import busybox, is_root
from skerry.testing.programs_node import Kind, ProgramsNode, missing
from skerry.testing.walled_node import WalledNode

NETWORK = probe()
BUSYBOX = busybox()

pytestmark = [
    pytest.mark.skipif(not is_root(), reason="programs need root"),
    pytest.mark.skipif(not NETWORK.usable, reason=f"networks: {NETWORK.rules}"),
    pytest.mark.skipif(BUSYBOX is None, reason="busybox: no static one (apt-get install busybox-static)"),
    pytest.mark.timeout(300),
]


def needs(kind: Kind) -> pytest.MarkDecorator:
    problem = missing(kind) if is_root() else "needs root"
    return pytest.mark.skipif(bool(problem), reason=f"{kind}: {problem}")


class _OnEngine(ProgramRuntimeContract):
    kind: Kind

    @pytest.fixture
    async def harness(self) -> AsyncIterator[ProgramsNode]:
        assert BUSYBOX is not None
        node = ProgramsNode(self.kind, BUSYBOX.read_bytes())
        try:
            yield node
        finally:
            await node.clean_up()


@needs("crun")
class TestProgramsInCrun(_OnEngine):
    kind = "crun"


@needs("runc")
class TestProgramsInRunc(_OnEngine):
    kind = "runc"


@needs("runsc")
class TestProgramsInGvisor(_OnEngine):
    kind = "runsc"


@needs("microvm")
class TestProgramsInMicrovms(_OnEngine):
    kind = "microvm"


@needs("runsc")
@pytest.mark.skipif(not tools.find_workerd().usable, reason=f"workerd: {tools.find_workerd().problem}")
class TestWorkersInGvisor(RuntimeContract):
    @pytest.fixture
    async def harness(self) -> AsyncIterator[WalledNode]:
        node = WalledNode()
        try:
            yield node
        finally:
            await node.clean_up()
