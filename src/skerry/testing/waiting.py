"""Waiting for what comes true by itself, where there is no event to await."""

import asyncio
from collections.abc import Callable


async def eventually(holds: Callable[[], object], *, timeout_s: float = 60, every_s: float = 0.01) -> None:
    """Return once `holds()` is true; `TimeoutError` names what never came true."""
    for _ in range(int(timeout_s / every_s)):
        if holds():
            return
        await asyncio.sleep(every_s)
    raise TimeoutError(f"not true after {timeout_s} s: {getattr(holds, '__qualname__', holds)}")
