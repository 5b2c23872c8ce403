"""The contract of sandbox engines on every adapter."""

import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from skerry.adapters import tools
from skerry.adapters.sandbox.oci import runtimes
from skerry.adapters.sandbox.simulated import KILLED, SimulatedEngine, SimulatedHost
from skerry.ports.sandbox import Sandbox, SandboxEngine, SandboxSpec
from skerry.testing.contracts.sandbox import LIMITS, SandboxContract
from skerry.testing.contracts.sandbox_real import RealSandboxContract
from skerry.testing.oci_node import OciNode, busybox, is_root


class SimulatedHarness:
    def __init__(self, root: Path) -> None:
        self._root = root
        self._host = SimulatedHost()

    async def open(self, known: frozenset[str] = frozenset()) -> SandboxEngine:
        engine = SimulatedEngine(self._host)
        await engine.attach(known)
        return engine

    async def abandon(self, engine: SandboxEngine) -> None:
        pass

    async def spec(self, script: str) -> SandboxSpec:
        name = secrets.token_hex(8)
        return SandboxSpec(
            id=name, rootfs="/", argv=("/bin/sh", "-c", script), env={}, limits=LIMITS, netns="", log=str(self._root / name)
        )

    async def leftovers(self) -> list[str]:
        return list(self._host.boxes)

    async def kill_program(self, sandbox: Sandbox) -> None:
        self._host.boxes[sandbox.id].script.end(KILLED)


class TestSimulatedEngine(SandboxContract):
    @pytest.fixture
    async def harness(self, tmp_path: Path) -> AsyncIterator[SimulatedHarness]:
        yield SimulatedHarness(tmp_path)


def needs(find: Callable[[], tools.Tool]) -> pytest.MarkDecorator:
    tool = find()
    problem = "needs root" if not is_root() else "no static busybox (busybox-static)" if busybox() is None else tool.problem
    return pytest.mark.skipif(bool(problem), reason=f"{tool.name}: {problem}")


class OnRuntime(RealSandboxContract):
    name: runtimes.Name

    @pytest.fixture
    async def harness(self, tmp_path: Path) -> AsyncIterator[OciNode]:
        node = OciNode(tmp_path, runtimes.find(self.name))
        try:
            yield node
        finally:
            await node.clean_up()


@needs(tools.find_crun)
class TestCrun(OnRuntime):
    name = "crun"


@needs(tools.find_runc)
class TestRunc(OnRuntime):
    name = "runc"


@needs(tools.find_runsc)
class TestRunsc(OnRuntime):
    name = "runsc"
