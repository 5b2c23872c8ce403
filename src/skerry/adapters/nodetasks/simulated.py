"""`skerry.ports.nodetasks` without a machine: `reboot` is what the world makes of it, other tasks take a while."""

from collections.abc import Callable, Mapping
from typing import final

from skerry.core.types.maintenance import REBOOT
from skerry.ports.clock import Clock
from skerry.ports.nodetasks import TaskEnd

TASK_MS = 300


@final
class SimulatedTasks:
    """`ends`: how each further task ends; shared by the agents of one machine, and changed by whoever tells the story."""

    def __init__(self, clock: Clock, *, life: str, restart: Callable[[], None], ends: Mapping[str, TaskEnd]) -> None:
        self._clock = clock
        self._life = life
        self._restart = restart
        self._ends = ends

    @property
    def allowed(self) -> tuple[str, ...]:
        return tuple(sorted({REBOOT, *self._ends}))

    def life(self, task: str) -> str:
        return self._life if task == REBOOT else ""

    async def run(self, task: str) -> TaskEnd:
        if task == REBOOT:
            self._restart()
            return TaskEnd(done=True)
        await self._clock.sleep_ms(TASK_MS)
        return self._ends.get(task, TaskEnd(done=False, detail=f"{task} is not among what this node may do"))
