"""What an agent can do to its own machine, by names that the machine's own configuration gives a meaning."""

from typing import Protocol

from skerry.kit.record import Record


class TaskEnd(Record):
    """How a task ended; `detail` is for people: the last lines that it wrote, or why it failed."""

    done: bool
    detail: str = ""


class NodeTasks(Protocol):
    """Nothing but the names of `allowed` is ever carried out; no text from elsewhere becomes a command."""

    @property
    def allowed(self) -> tuple[str, ...]:
        """Names, in order."""
        ...

    def life(self, task: str) -> str:
        """Names the life that `task` ends: another one after it. Empty for a task that ends none."""
        ...

    async def run(self, task: str) -> TaskEnd:
        """Carry it out. One that ends a life of `life` returns when that has begun to end, or when it failed to.

        Cancelled: what was started is ended, unless it ends the agent itself. An unknown name is a failure, never an exception.
        """
        ...
