"""The contract of sandbox engines on every adapter."""

import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from skerry.adapters.sandbox.simulated import KILLED, SimulatedEngine, SimulatedHost
from skerry.ports.sandbox import Sandbox, SandboxEngine, SandboxSpec
from skerry.testing.contracts.sandbox import LIMITS, SandboxContract


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
