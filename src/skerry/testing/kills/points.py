"""Where an agent can be killed: before each thing that it does to the machine, by name.

Python tells most of it (audit events); what goes to the kernel by ctypes or netlink is told by the functions that do it.
"""

import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

from skerry.adapters import kernel
from skerry.adapters.network.linux import devices, namespaces, nft
from skerry.adapters.process import detached
from skerry.kit.record import Record

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_EVENTS = frozenset(
    (
        "open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.chown", "os.link", "os.symlink", "os.truncate",
        "os.utime", "os.posix_spawn", "os.fork", "os.kill", "subprocess.Popen", "shutil.rmtree", "socket.bind", "socket.connect",
        "fcntl.ioctl",
    )
)  # fmt: skip
_CALLS: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (kernel, ("mount", "bind", "unmount", "attach_loop", "apart", "open_mapped_tree", "make_userns")),
    (namespaces, ("_call",)),
    (devices, ("make_link", "set_up_inside", "shape", "hold_block", "release_block", "remove_link", "close_to_ipv6")),
    (nft.Nft, ("run",)),
    (detached.Detached, ("signal",)),
)
_OURS, _NOT = f"{os.sep}skerry{os.sep}", f"{os.sep}testing{os.sep}"


class Plan(Record):
    """Die before the `turn`-th time at `point`, or, without one, at no point; `delay_ms` after it. `at_ms`: after so long."""

    point: str = ""
    turn: int = 1
    delay_ms: int = 0
    at_ms: int = 0


class Points:
    """Of this process, from here on. `seen` counts them by name."""

    def __init__(self, plan: Plan) -> None:
        self.seen: Counter[str] = Counter()
        self._plan = plan
        self._pid = os.getpid()
        for owner, names in _CALLS:
            for name in names:
                setattr(owner, name, self._telling(getattr(owner, name), name))
        sys.addaudithook(self._hear)
        if plan.at_ms:
            _die_after(plan.at_ms)

    def _telling(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self._pass(name.strip("_"))
            return real(*arguments, **named)

        return call

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _EVENTS or (event == "open" and not arguments[2] & _WRITES):
            return
        self._pass(event.rpartition(".")[2])

    def _pass(self, what: str) -> None:
        place = _place()
        if not place or os.getpid() != self._pid:
            return
        point = f"{place} {what}"
        self.seen[point] += 1
        plan = self._plan
        if point == plan.point and self.seen[point] == plan.turn:
            if plan.delay_ms:
                _die_after(plan.delay_ms)
            else:
                os.kill(self._pid, signal.SIGKILL)


def _die_after(ms: int) -> None:
    """As kill -9: nobody handles that signal, so nothing is cleaned up."""
    signal.setitimer(signal.ITIMER_REAL, ms / 1000)


def _place() -> str:
    """`module.function` of ours that is nearest; empty where none of ours is at work."""
    frame = sys._getframe(2)  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        code = frame.f_code
        if _OURS in code.co_filename and _NOT not in code.co_filename:
            return f"{code.co_filename.rpartition(_OURS)[2].removesuffix('.py').replace(os.sep, '.')}.{code.co_name}"
        frame = frame.f_back
    return ""
