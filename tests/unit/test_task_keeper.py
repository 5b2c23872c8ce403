"""A node's task is carried out once, whatever dies meanwhile."""

import asyncio
from typing import Literal

import pytest

from skerry.core.types.ids import NodeId
from skerry.core.types.maintenance import NodeTask, TaskReport
from skerry.ports.nodetasks import TaskEnd
from skerry.services.node.tasks import TaskKeeper, TaskMemory

ORDER = NodeTask(node=NodeId("lhr-1"), task="kernel", token="t1")


class Disk:
    def __init__(self) -> None:
        self.held: TaskMemory | None = None

    def load(self) -> TaskMemory | None:
        return self.held

    def save(self, value: TaskMemory, /) -> None:
        self.held = value


class Tasks:
    allowed = ("kernel",)

    def __init__(self, *, life: str = "") -> None:
        self.runs = 0
        self._life = life
        self.end = TaskEnd(done=True, detail="x" * 9_000)

    def life(self, task: str) -> str:
        return self._life

    async def run(self, task: str) -> TaskEnd:
        self.runs += 1
        return self.end


async def carry_out(keeper: TaskKeeper, order: NodeTask) -> TaskReport | None:
    if keeper.wants(order):
        async with asyncio.TaskGroup() as group:
            keeper.begin(order, group)
    return keeper.report


def agent(tasks: Tasks, disk: Disk) -> TaskKeeper:
    keeper = TaskKeeper(tasks, disk, asyncio.Event())
    keeper.load()
    return keeper


async def test_an_order_that_is_given_again_is_not_carried_out_again() -> None:
    tasks, disk = Tasks(), Disk()
    keeper = agent(tasks, disk)
    report = await carry_out(keeper, ORDER)
    assert report is not None
    assert (report.state, len(report.detail)) == ("done", 500)
    await carry_out(keeper, ORDER)
    await carry_out(agent(tasks, disk), ORDER)
    assert tasks.runs == 1
    await carry_out(keeper, NodeTask(node=ORDER.node, task="kernel", token="t2"))
    assert tasks.runs == 2


@pytest.mark.parametrize(
    ("before", "after", "state", "runs"),
    [("", "", "failed", 0), ("boot-1", "boot-2", "done", 0), ("boot-1", "boot-1", "done", 1)],
    ids=["a program that was under way", "what it was to end has ended", "the agent alone was restarted"],
)
async def test_what_becomes_of_a_task_whose_agent_ended(
    before: str, after: str, state: Literal["done", "failed"], runs: int
) -> None:
    disk = Disk()
    disk.held = TaskMemory(task="kernel", report=TaskReport(token="t1", state="running"), life=before)
    tasks = Tasks(life=after)
    keeper = agent(tasks, disk)
    report = await carry_out(keeper, ORDER)
    assert tasks.runs == runs
    assert report is not None
    if runs:
        assert report.state == "running", "it goes on until that life has ended"
        report = agent(Tasks(life="boot-2"), disk).report
        assert report is not None
    assert report.state == state
