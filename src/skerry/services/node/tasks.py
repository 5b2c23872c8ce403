"""The one task that a node is given at a time: carried out once, whatever dies meanwhile.

order (token) ─► written: running ─► the machine does it ─► written: done, or failed
                      └─ the agent ended: done if that was what the task is for, else failed
"""

import asyncio

import structlog

from skerry.core.types.maintenance import NodeTask, TaskReport
from skerry.kit.record import Record
from skerry.ports.nodetasks import NodeTasks
from skerry.ports.recordfile import RecordFile

log = structlog.get_logger()

DETAIL_CHARS_MAX = 500


class TaskMemory(Record):
    """The latest order and how far it is. `life` as in `NodeTasks.life`, when it began."""

    task: str
    report: TaskReport
    life: str = ""


class TaskKeeper:
    """`report` is what is known now; `changed` is set when it is another."""

    def __init__(self, tasks: NodeTasks, file: RecordFile[TaskMemory], changed: asyncio.Event) -> None:
        self._tasks = tasks
        self._file = file
        self._changed = changed
        self._memory: TaskMemory | None = None
        self._running: asyncio.Task[None] | None = None

    @property
    def allowed(self) -> tuple[str, ...]:
        return self._tasks.allowed

    @property
    def report(self) -> TaskReport | None:
        return self._memory.report if self._memory else None

    def load(self) -> None:
        """What the agent before this one was told, and what has become of it."""
        self._memory = memory = self._file.load()
        if memory is None or memory.report.state != "running":
            return
        if memory.life and memory.life != self._tasks.life(memory.task):
            self._write(memory.task, memory.report.token, "done", "", life="")
        elif not memory.life:
            self._write(memory.task, memory.report.token, "failed", "the agent ended while it ran", life="")

    def wants(self, order: NodeTask) -> bool:
        """Whether the order is a new one, or one that has to be carried on."""
        if self._running is not None:
            return False
        known = self.report
        return known is None or known.token != order.token or known.state == "running"

    def begin(self, order: NodeTask, group: asyncio.TaskGroup) -> None:
        """Carry it out beside everything else. Call it when `wants` says so and nothing runs on the node."""
        self._write(order.task, order.token, "running", "", life=self._tasks.life(order.task))
        self._running = group.create_task(self._run(order))

    async def _run(self, order: NodeTask) -> None:
        log.info("task_begins", task=order.task, token=order.token)
        end = await self._tasks.run(order.task)
        ends_life = bool(self._tasks.life(order.task))
        if not (end.done and ends_life):  # else whoever lives next says so
            self._write(order.task, order.token, "done" if end.done else "failed", end.detail, life="")
            self._running = None
        log.info("task_ended", task=order.task, done=end.done, detail=end.detail)

    def _write(self, task: str, token: str, state: str, detail: str, *, life: str) -> None:
        assert state in ("running", "done", "failed")
        report = TaskReport(token=token, state=state, detail=detail[-DETAIL_CHARS_MAX:])
        self._memory = TaskMemory(task=task, report=report, life=life)
        self._file.save(self._memory)
        self._changed.set()
