"""Files that a node keeps of instances: what programs wrote, and snapshots.

Contract: everything is private to the node's own user. `remove` and `remove_snapshot` are idempotent. `attach` removes what is
there of instances and snapshots that nobody knows. A log is appended to by engines, which hold the file open: it is trimmed in
place, keeping its end, and an instance's log goes on over its restarts.
"""

from collections.abc import AsyncIterator
from typing import Protocol


class InstanceFiles(Protocol):
    def attach(self, known: frozenset[str], snapshots: frozenset[str]) -> None: ...

    def log_path(self, instance_id: str) -> str: ...

    def note(self, instance_id: str, line: str) -> None:
        """A line of the node's own in the instance's log, with `skerry: ` before it."""
        ...

    def log_end(self, instance_id: str, *, bytes_max: int) -> str:
        """The end of the log, for people."""
        ...

    def read_log(self, instance_id: str, *, tail_bytes: int, follow: bool) -> AsyncIterator[bytes]:
        """The last `tail_bytes`; with `follow` also what comes, until the instance's files are removed."""
        ...

    def trim_logs(self, *, bytes_max: int) -> frozenset[str]:
        """The instances whose logs had no room for what came: lines are lost."""
        ...

    def remove(self, instance_id: str) -> None: ...

    def make_snapshot(self, name: str) -> str:
        """An empty directory."""
        ...

    def snapshot_path(self, name: str) -> str: ...

    def remove_snapshot(self, name: str) -> None: ...
