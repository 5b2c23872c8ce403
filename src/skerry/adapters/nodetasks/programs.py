"""`skerry.ports.nodetasks` by the machine's own programs: what the operator named for this node, and nothing else.

A program runs without arguments, with SKERRY_NODE and SKERRY_TASK in its environment, in a session of its own, for at most its
time. It is recorded like everything that outlives its plane: one that a killed agent left is ended by the next agent, or found by
its tag when the platform ends.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import final

from skerry.adapters.process.detached import Spawn, attach, read_log_tail, spawn
from skerry.core.types.maintenance import REBOOT
from skerry.kit.record import Record
from skerry.ports.nodetasks import TaskEnd

RECORD = "task"
STOP_GRACE_MS = 2_000
LOG_BYTES_MAX = 256 << 10
TAIL_BYTES = 2_048
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Hook(Record):
    """`program`: an absolute path. `reboots`: it ends by the machine going down, and is done when that is up again."""

    name: str
    program: str
    reboots: bool = False
    seconds_max: int = 3_600


@final
class ProgramTasks:
    """`restart` ends the agent with all that it runs, to be started again by its supervisor; None: nobody would.

    A hook that is called like the task of `restart` takes its place.
    """

    def __init__(
        self,
        node: str,
        hooks: tuple[Hook, ...],
        *,
        life: str,
        data_dir: Path,
        tag: str,
        restart: Callable[[], None] | None = None,
    ) -> None:
        self._node = node
        self._hooks = {hook.name: hook for hook in hooks}
        self._life = life  # of this agent
        self._records = data_dir
        self._log = data_dir / "task.log"
        self._tag = tag
        self._restart = restart

    @property
    def allowed(self) -> tuple[str, ...]:
        own = [REBOOT] if self._restart is not None else []
        return tuple(sorted({*own, *self._hooks}))

    def life(self, task: str) -> str:
        hook = self._hooks.get(task)
        if hook is not None:
            return BOOT_ID.read_text().strip() if hook.reboots else ""
        return self._life if task == REBOOT else ""

    async def end_leftover(self) -> None:
        """What an earlier agent began and did not see end."""
        self._records.mkdir(mode=0o700, exist_ok=True)
        left = attach(RECORD, records=self._records)
        if left is not None:
            await left.stop(grace_ms=STOP_GRACE_MS)

    async def run(self, task: str) -> TaskEnd:
        hook = self._hooks.get(task)
        if hook is not None:
            return await self._program(hook)
        if task == REBOOT and self._restart is not None:
            self._restart()
            return TaskEnd(done=True)
        return TaskEnd(done=False, detail=f"{task} is not among what this node may do: {', '.join(self.allowed)}")

    async def _program(self, hook: Hook) -> TaskEnd:
        await self.end_leftover()
        self._log.unlink(missing_ok=True)
        env = {"PATH": os.environ.get("PATH", ""), "SKERRY_NODE": self._node, "SKERRY_TASK": hook.name}
        what = Spawn(name=RECORD, argv=(hook.program,), env=env, log=str(self._log), log_bytes_max=LOG_BYTES_MAX, tag=self._tag)
        try:
            process = spawn(what, records=self._records)
        except OSError as error:
            return TaskEnd(done=False, detail=f"{hook.program}: {error.strerror}")
        try:
            async with asyncio.timeout(hook.seconds_max):
                status = await process.wait()
        except TimeoutError:
            return TaskEnd(done=False, detail=f"{hook.program} took longer than {hook.seconds_max} s")
        finally:
            await process.stop(grace_ms=STOP_GRACE_MS)
        said = " ".join(read_log_tail(self._log, bytes_max=TAIL_BYTES).split())
        if status == 0:
            return TaskEnd(done=True, detail=said)
        return TaskEnd(done=False, detail=f"{hook.program} ended with {status}{f': {said}' if said else ''}")
