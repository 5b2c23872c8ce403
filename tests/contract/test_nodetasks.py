"""The contract of a node's tasks on every adapter, and what programs do besides."""

import asyncio
import os
from pathlib import Path

import pytest

from skerry.adapters.clock.system import SystemClock
from skerry.adapters.nodetasks.programs import Hook, ProgramTasks
from skerry.adapters.nodetasks.simulated import SimulatedTasks
from skerry.adapters.process.detached import attach
from skerry.ports.nodetasks import NodeTasks, TaskEnd
from skerry.testing.contracts.nodetasks import NodeTasksContract

SCRIPTS = {
    "good": "echo all well",
    "bad": "echo the disk is full >&2; exit 3",
    "slow": "sleep 60",
    "tells": 'echo "$SKERRY_NODE $SKERRY_TASK $# ${SKERRY_API_TOKEN:-no token}"; exit 1',
}


class ProgramHarness:
    def __init__(self, root: Path, *names: str, seconds_max: int = 30) -> None:
        self._root, self._names, self._seconds_max = root, names or ("good", "bad"), seconds_max
        self.reboots = 0
        self._lives = 0
        for name in self._names:
            script = root / name
            script.write_text(f"#!/bin/sh\n{SCRIPTS[name]}\n")
            script.chmod(0o755)

    def open(self) -> ProgramTasks:
        self._lives += 1
        hooks = (Hook(name=name, program=str(self._root / name), seconds_max=self._seconds_max) for name in self._names)
        return ProgramTasks(
            "lhr-1", tuple(hooks), life=str(self._lives), data_dir=self._root / "task", tag="test", restart=self._reboot
        )

    def _reboot(self) -> None:
        self.reboots += 1


class SimulatedHarness:
    def __init__(self) -> None:
        self.reboots = 0
        self._lives = 0
        self._ends = {"good": TaskEnd(done=True, detail="all well"), "bad": TaskEnd(done=False, detail="the disk is full")}

    def open(self) -> NodeTasks:
        self._lives += 1
        return SimulatedTasks(SystemClock(), life=str(self._lives), restart=self._reboot, ends=self._ends)

    def _reboot(self) -> None:
        self.reboots += 1


class TestProgramTasks(NodeTasksContract):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> ProgramHarness:
        return ProgramHarness(tmp_path)

    async def test_what_it_wrote_is_told_and_it_gets_nothing_but_names(self, tmp_path: Path) -> None:
        end = await ProgramHarness(tmp_path, "tells").open().run("tells")
        assert end.detail == f"{tmp_path}/tells ended with 1: lhr-1 tells 0 no token"

    async def test_one_that_takes_too_long_is_ended(self, tmp_path: Path) -> None:
        end = await ProgramHarness(tmp_path, "slow", seconds_max=1).open().run("slow")
        assert (end.done, "longer than 1 s" in end.detail) == (False, True)
        assert attach("task", records=tmp_path / "task") is None

    async def test_what_a_killed_agent_left_is_ended_by_the_next(self, tmp_path: Path) -> None:
        harness = ProgramHarness(tmp_path, "slow")
        running = asyncio.ensure_future(harness.open().run("slow"))
        records = tmp_path / "task"
        while not (records / "task.json").exists():
            await asyncio.sleep(0.01)
        left = attach("task", records=records)
        assert left is not None
        pid = left.pid
        await harness.open().end_leftover()
        await running  # the first one sees its end
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    async def test_a_program_that_is_gone_by_now_fails(self, tmp_path: Path) -> None:
        harness = ProgramHarness(tmp_path)
        (tmp_path / "good").unlink()
        assert not (await harness.open().run("good")).done


class TestSimulatedTasks(NodeTasksContract):
    @pytest.fixture
    def harness(self) -> SimulatedHarness:
        return SimulatedHarness()
