"""`skerry.ports.instancefiles` as two directories.

logs/<instance>.log, with .log.1 for what was trimmed off; snapshots/<name>/
"""

import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from skerry.adapters.files import make_private_directory
from skerry.adapters.logfiles import read_log
from skerry.adapters.process.detached import read_log_tail, trim_logs

OLD = ".log.1"


class DirectoryFiles:
    def __init__(self, root: Path) -> None:
        self._logs = root / "logs"
        self._snapshots = root / "snapshots"

    def attach(self, known: frozenset[str], snapshots: frozenset[str]) -> None:
        for directory in (self._logs, self._snapshots):
            make_private_directory(directory)
        for path in self._logs.iterdir():
            if path.name.partition(".")[0] not in known:
                path.unlink(missing_ok=True)
        for path in self._snapshots.iterdir():
            if path.name not in snapshots:
                self.remove_snapshot(path.name)

    def log_path(self, instance_id: str) -> str:
        return str(self._log(instance_id))

    def note(self, instance_id: str, line: str) -> None:
        descriptor = os.open(self._log(instance_id), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, f"skerry: {line}\n".encode())
        finally:
            os.close(descriptor)

    def log_end(self, instance_id: str, *, bytes_max: int) -> str:
        return read_log_tail(self._log(instance_id), bytes_max=bytes_max)

    def read_log(self, instance_id: str, *, tail_bytes: int, follow: bool) -> AsyncIterator[bytes]:
        log = self._log(instance_id)
        files = (log.with_name(f"{instance_id}{OLD}"), log)
        return read_log(lambda: files if log.exists() else None, tail_bytes=tail_bytes, follow=follow)

    def trim_logs(self, *, bytes_max: int) -> frozenset[str]:
        return trim_logs(self._logs, bytes_max=bytes_max)

    def remove(self, instance_id: str) -> None:
        for path in (self._log(instance_id), self._logs / f"{instance_id}{OLD}"):
            path.unlink(missing_ok=True)

    def make_snapshot(self, name: str) -> str:
        self.remove_snapshot(name)
        path = self._snapshots / name
        make_private_directory(path)
        return str(path)

    def snapshot_path(self, name: str) -> str:
        return str(self._snapshots / name)

    def remove_snapshot(self, name: str) -> None:
        shutil.rmtree(self._snapshots / name, ignore_errors=True)

    def _log(self, instance_id: str) -> Path:
        return self._logs / f"{instance_id}.log"
