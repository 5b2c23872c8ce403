"""Calls: conversations with an instance, from a client over control and the instance's site to its node.

The lower plane opens every connection (decision 0007): it waits for calls, and answers each with a pipe of its own, which the
upper plane joins to the one that asked. Planes between the ends pass messages on as they are (`skerry.kit.frames`).
A call is not kept: when a plane or a link dies, the conversations through it end, and nothing of them stays.
"""

from typing import Protocol

from skerry.core.types.ids import InstanceId
from skerry.kit.record import Record
from skerry.ports.sandbox import ExecSpec

TAIL_BYTES_MAX = 16 << 20


class Exec(Record, tag_field="kind", tag="exec"):
    """Run a command inside. Frames: stdin, resize and signal in; stdout, stderr and an exit out."""

    spec: ExecSpec


class Logs(Record, tag_field="kind", tag="logs"):
    """What it wrote. Frames: stdout out, then an exit."""

    tail_bytes: int = 64 * 1024
    follow: bool = False


class CopyOut(Record, tag_field="kind", tag="copy_out"):
    """A tar archive of `path`, as stdout frames, then an exit."""

    path: str


class CopyIn(Record, tag_field="kind", tag="copy_in"):
    """A tar archive as stdin frames, an empty one at its end, unpacked into `directory`; then an exit."""

    directory: str


class Usage(Record, tag_field="kind", tag="usage"):
    """What it uses now: an `InstanceUsage` as one stdout frame, then an exit."""


What = Exec | Logs | CopyOut | CopyIn | Usage


class Call(Record):
    """`id` is 32 hex digits and known to nobody but the planes that pass it on."""

    id: str
    instance: InstanceId
    what: What


class Calls(Record):
    calls: tuple[Call, ...]


class CallError(Exception):
    """The family of this port's errors."""


class NotAnswered(CallError):
    """The plane below did not come, or has too many calls already; the text is for people."""


class PipeClosed(CallError):
    """The other end is gone."""


class Pipe(Protocol):
    """One conversation. Messages arrive whole and in order; a slow reader holds the writer back."""

    async def send(self, message: bytes) -> None:
        """Raises `PipeClosed`."""
        ...

    async def receive(self) -> bytes | None:
        """None when the other end has closed."""
        ...

    async def aclose(self) -> None: ...


class CallLink(Protocol):
    """What a lower plane asks of the upper one. Both raise the links' `LinkError`."""

    async def next_calls(self, *, wait_ms: int) -> tuple[Call, ...]:
        """Calls for this plane; none after `wait_ms` without one. Each is handed out once."""
        ...

    async def answer(self, call_id: str) -> Pipe:
        """The pipe to whoever made the call."""
        ...
