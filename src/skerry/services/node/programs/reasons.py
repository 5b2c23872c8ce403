"""Why a program does not run, in words for whoever deployed it or whoever owns the machine. Pure."""

import signal

from skerry.core.machines.instance import Exited, Lacking
from skerry.core.types.program import ExecCheck, Health, HttpCheck, TcpCheck
from skerry.ports.images import BadImage, ImagesUnavailable
from skerry.ports.network import NetworkError
from skerry.ports.rootfs import NoSuchUser
from skerry.ports.sandbox import EngineUnavailable, Exit, Gone, SandboxError, StartError, Unsupported
from skerry.services.node.programs.spec import BadProgram

SAID_CHARS_MAX = 240
NOTE = "skerry: "  # begins the node's own lines in a log; one stands between any two processes
_SIGNALS = {number.value: number.name for number in signal.Signals}


class NeverReady(Exception):
    """Its check did not succeed in time; the text says what was asked and what was answered."""


class EndedEarly(Exception):
    """It ended before it was ready."""

    def __init__(self, ended: Exit) -> None:
        super().__init__("ended before it was ready")
        self.ended = ended


# The first that matches says: what stands before the text; whether it is the program's own fault.
_STARTS: tuple[tuple[type[Exception], str, bool], ...] = (
    (BadImage, "bad image: ", True),
    (NoSuchUser, "", True),
    (BadProgram, "", True),
    (Unsupported, "", True),
    (StartError, "cannot start: ", True),
    (ImagesUnavailable, "its image is not here: ", False),
    (EngineUnavailable, "this node cannot start it: ", False),
)


def failed_start(error: Exception) -> Exited | Lacking:
    """A start that came to nothing, except `EndedEarly` (see `ended`). What the node lacks is not held against the version."""
    if isinstance(error, NeverReady | Gone):
        return Exited(reason=str(error) or "it ended while it was being started")
    if isinstance(error, TimeoutError):
        return Exited(reason="it was not started in time")
    for kind, before, own_fault in _STARTS:
        if isinstance(error, kind):
            reason = f"{before}{error}"
            return Exited(reason=reason, own_fault=True) if own_fault else Lacking(reason=reason)
    known = isinstance(error, SandboxError | NetworkError)
    return Lacking(reason=str(error) if known else f"{type(error).__name__}: {error}")


def ended(how: Exit, *, memory_mib_max: int, said: str, before: str = "") -> Exited:
    """A process that ran. `said`: the end of its log; `before`: what had not happened yet."""
    text = _how(how, memory_mib_max)
    last = last_line(since_note(said))
    tail = f"; its last words: {last}" if last and not (how.code == 0 and not before) else ""
    return Exited(reason=f"{text}{f' {before}' if before else ''}{tail}", code=how.code)


def since_note(said: str) -> str:
    """What the last process alone said."""
    return said.rpartition(NOTE)[2].partition("\n")[2] if NOTE in said else said


def _how(how: Exit, memory_mib_max: int) -> str:
    if how.out_of_memory:
        return f"out of memory (it may use {memory_mib_max} MiB)"
    if how.detail:
        return how.detail
    if how.code is None:
        return "it ended, with what status is not known"
    if how.code > 128 and how.code - 128 in _SIGNALS:
        return f"ended by {_SIGNALS[how.code - 128]}"
    return f"ended with status {how.code}"


def never_ready(health: Health, port: int | None, last: str, *, after_ms: int) -> str:
    """ "port 8080 never opened: …" after its grace."""
    check = health.check
    match check:
        case TcpCheck():
            what = f"port {check.port or port} never opened"
            last = last and f"{last} (a program that listens on 127.0.0.1 alone is not reached: it has to listen on 0.0.0.0)"
        case HttpCheck():
            what = f"GET {check.path} on port {check.port or port} never succeeded"
        case ExecCheck():
            what = f"`{' '.join(check.command)}` never succeeded"
    return f"{what} in {after_ms / 1000:g} s: {last or 'no answer'}"


def unhealthy(health: Health, last: str) -> str:
    return f"its health check failed {health.failures_max} times in a row: {last}"


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "".join(char for char in lines[-1] if char.isprintable())[:SAID_CHARS_MAX] if lines else ""
