"""Forked copies of this process: each lives one life, or is killed in it, and says what it saw."""

import contextlib
import faulthandler
import os
import select
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import msgspec

from skerry.kit.record import Record, decode, encode
from skerry.testing.kills import stacks
from skerry.testing.kills.points import Plan, Points

LIFE_S_MAX = 400.0  # a life whose every step takes long, and still less than `life.STEP_S_MAX` for each
TELL_S = 2.0  # for one that has not ended to say where it waits
TOLD_CHARS_MAX = 6000
REAP_EVERY_S = 0.02


class Told(Record):
    """What a forked process says when it has come to its end."""

    seen: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    problems: tuple[str, ...] = ()
    ms: int = 0


class Copies:
    """One after the other; `log` gets their output. Call it in a process without threads."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def run(self, plan: Plan, work: Callable[[], list[str]]) -> Told | None:
        """What a copy of this process said at its end; None: it was killed."""
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            self._be(plan, work, write)
        os.close(write)
        try:
            return self._heard(pid, read)
        finally:
            os.close(read)

    def _heard(self, pid: int, read: int) -> Told | None:
        pidfd, deadline = os.pidfd_open(pid), time.monotonic() + LIFE_S_MAX
        try:
            said = b""
            while not _readable(pidfd, min(deadline, time.monotonic() + REAP_EVERY_S)) and time.monotonic() < deadline:
                _reap_orphans(pid)
            if not _readable(pidfd, 0):
                where = self._ended_where(pid, pidfd)
                return Told(problems=(f"no end of it in {LIFE_S_MAX:g} s; who waits where:\n{where}",))
            os.waitpid(pid, 0)
            os.set_blocking(read, False)
            with contextlib.suppress(BlockingIOError):
                while chunk := os.read(read, 1 << 16):
                    said += chunk
            return decode(said, Told) if said else None
        finally:
            os.close(pidfd)

    def _ended_where(self, pid: int, pidfd: int) -> str:
        """What it said of its tasks, and of its threads (a loop that is blocked says nothing else)."""
        length = self._log.stat().st_size
        os.kill(pid, stacks.ASKED)
        _readable(pidfd, time.monotonic() + TELL_S)
        os.kill(pid, signal.SIGABRT)  # faulthandler tells the threads
        os.waitpid(pid, 0)
        return self._log.read_bytes()[length:].decode(errors="replace")[:TOLD_CHARS_MAX]

    def _be(self, plan: Plan, work: Callable[[], list[str]], write: int) -> None:
        """The copy. Never returns."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for descriptor in (1, stacks.STDERR):
            os.dup2(log, descriptor)
        began = time.monotonic()
        try:
            faulthandler.enable(stacks.STDERR)
            faulthandler.register(stacks.ASKED, stacks.STDERR)  # until there is a loop that tells more
            points = Points(plan)
            problems = work()
            told = Told(seen=dict(points.seen), problems=tuple(problems), ms=int((time.monotonic() - began) * 1000))
        except BaseException as error:
            traceback.print_exc()
            told = Told(problems=(f"{type(error).__name__}: {error}",))
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.write(write, encode(told))
        os._exit(0)

    def said(self) -> str:
        """The end of what they wrote."""
        return self._log.read_text(errors="replace")[-4000:] if self._log.exists() else ""

    def forget_said(self) -> None:
        self._log.write_bytes(b"")


def _readable(descriptor: int, deadline: float) -> bool:
    return bool(select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0])


def _reap_orphans(but: int) -> None:
    """As the init of a machine does, whose part this process has: a namespace does not end before all in it are reaped."""
    while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None and ended.si_pid != but:
        os.waitpid(ended.si_pid, 0)
