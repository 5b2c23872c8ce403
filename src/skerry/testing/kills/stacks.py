"""Where an event loop waits, in short: the chain of awaits of each task, which a stack of threads does not show."""

import asyncio
import os
import signal
from pathlib import Path
from types import CodeType
from typing import Any

ASKED = signal.SIGUSR1
STDERR = 2  # of the process, whoever captures Python's own
STEPS_MAX = 30  # of one chain


def tell_when_asked() -> None:
    """Of the running loop: on `ASKED` it says on stderr where its tasks wait. A loop that is blocked says nothing."""
    asyncio.get_running_loop().add_signal_handler(ASKED, lambda: os.write(STDERR, f"{told()}\n".encode()))


def told() -> str:
    """A line for each task that has not ended: its name, where it stands from the outside in, and for what it waits."""
    current = asyncio.current_task()
    return "\n".join(sorted(_line(task) for task in asyncio.all_tasks() if task is not current))


def _line(task: asyncio.Task[Any]) -> str:
    steps: list[str] = []
    awaited: Any = task.get_coro()
    while len(steps) < STEPS_MAX and (found := _step(awaited)) is not None:
        place, awaited = found
        steps.append(place)
    for_what = "" if awaited is None else f", for {type(awaited).__name__}"
    return f"{task.get_name()}: {' > '.join(steps)}{for_what}"


def _step(awaited: Any) -> tuple[str, Any] | None:
    """Where this coroutine, generator or asynchronous generator stands, and what it waits for."""
    for kind, following in (("cr", "cr_await"), ("gi", "gi_yieldfrom"), ("ag", "ag_await")):
        code: CodeType | None = getattr(awaited, f"{kind}_code", None)
        if code is not None:
            frame = getattr(awaited, f"{kind}_frame")
            line = frame.f_lineno if frame is not None else 0
            return f"{Path(code.co_filename).stem}.{code.co_name}:{line}", getattr(awaited, following)
    return None
