"""Entering a control group without waiting for the kernel's next quiet moment.

To move a process, the kernel waits for a grace period of RCU: 8 to 20 ms, a third of the start of an app that somebody
waits for. For the moment of a start it is told to hurry (`/sys/kernel/rcu_expedited`, as every kernel does at boot):
0.2 ms, at the price of an interrupt to each CPU. What it was told is noted first, and undone by the next run if
this one is killed.
"""

import asyncio
import contextlib
import os
from pathlib import Path

KNOB = Path("/sys/kernel/rcu_expedited")
HOLD_S = 0.1  # a start is past its groups long before


class QuickMoves:
    """`hurry` before a start. `note` is a file of this owner. Does nothing where the knob is not there or not ours."""

    def __init__(self, note: Path, *, knob: Path = KNOB) -> None:
        self._note = note
        self._knob = knob
        self._timer: asyncio.TimerHandle | None = None
        self._usable = False

    def begin(self) -> None:
        """Undo what a killed run left, and see whether the knob can be used."""
        if self._note.exists():
            self._set("0")
            self._note.unlink(missing_ok=True)
        self._usable = os.access(self._knob, os.W_OK)

    def hurry(self) -> None:
        """For the next moment; cheap to call for each of many starts."""
        if not self._usable:
            return
        if self._timer is None:
            if self._knob.read_text().strip() != "0":
                return  # set by somebody else: another node's agent, or the operator, whose it stays
            self._note.touch(mode=0o600)
            self._set("1")
        else:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(HOLD_S, self.end)

    def end(self) -> None:
        """As it was. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._set("0")
            self._note.unlink(missing_ok=True)

    def _set(self, value: str) -> None:
        with contextlib.suppress(OSError):
            self._knob.write_text(value)
