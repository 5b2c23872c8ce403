"""An asyncio event loop whose time is virtual: when nothing is ready it jumps to the next timer.

Hours pass in seconds, and two runs of the same program are the same run. Real I/O does not belong on it: a loop
with nothing ready and no timer can never go on, and says so.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Stuck(Exception):
    """Every task waits for something that cannot come."""


class _JumpingSelector(selectors.SelectSelector):
    """Instead of waiting for `timeout` it moves the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout == 0:
            return []  # callbacks are ready; another thread's word is heard when they have run
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise Stuck("nothing is ready and no timer is set")
        self.now_s += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
