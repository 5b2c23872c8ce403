"""Ending tasks from within tasks."""

import asyncio
from collections.abc import Iterable
from typing import Any


async def cancel(tasks: Iterable[asyncio.Task[Any] | None]) -> None:
    """Cancel them and wait for their end, whatever it is.

    Not `try: await task except CancelledError: pass`: that would also swallow a cancellation of whoever waits here, who
    would then go on for ever.
    """
    running = [task for task in tasks if task is not None]
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running)
    for task in running:
        if task.done() and not task.cancelled():
            task.exception()  # seen: it is not reported as lost
