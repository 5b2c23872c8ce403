"""One supervisor per data directory, and how others find it.

`<data>/lock` is held by flock as long as the supervisor lives: the kernel lets go of it even after kill -9.
`<data>/platform.json` says who it is and where the platform answers.
"""

import fcntl
import os
from pathlib import Path

import msgspec

from skerry.adapters.process.detached import Detached, ProcessRecord, boot_id, open_process, start_ticks, write_private
from skerry.apps.config import PlatformRecord
from skerry.apps.supervisor.errors import UpError
from skerry.apps.supervisor.layout import LOCK_FILE, Layout
from skerry.kit.record import decode, encode

PLATFORM_FILE = "platform.json"


class DataLock:
    """Held from `take` to `release` (or the end of the process)."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, data: Path) -> "DataLock":
        """Raises `UpError` naming the process that holds it."""
        descriptor = os.open(data / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise UpError(
                f"a platform runs on {data} already{_held_by(data)}",
                hint="`skerry status` shows it, `skerry down` ends it; another needs a --data-dir and ports of its own",
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        return cls(descriptor)

    def release(self) -> None:
        """Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def is_locked(data: Path) -> bool:
    """Whether a supervisor holds it now."""
    try:
        descriptor = os.open(data / LOCK_FILE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def write_platform(layout: Layout, *, ready: bool, default_account: str = "default") -> None:
    ticks = start_ticks(os.getpid())
    assert ticks is not None
    record = PlatformRecord(
        pid=os.getpid(),
        start_time=ticks,
        boot_id=boot_id(),
        data_dir=str(layout.data),
        run_dir=layout.run_dir,
        api_url=layout.api_url,
        admin_token_path=str(layout.admin_token),
        suffix=layout.options.suffix,
        public_port=layout.options.port,
        default_account=default_account,
        sites=layout.sites,
        nodes=layout.nodes,
        ready=ready,
    )
    write_private(layout.data / PLATFORM_FILE, encode(record))


def read_platform(data: Path) -> PlatformRecord | None:
    """None: nothing runs there, or what is there is of another version."""
    try:
        return decode((data / PLATFORM_FILE).read_bytes(), PlatformRecord)
    except (OSError, msgspec.DecodeError):
        return None


def open_supervisor(platform: PlatformRecord) -> Detached | None:
    """The supervisor's process if it lives; the caller closes it."""
    record = ProcessRecord(
        name="supervisor", pid=platform.pid, start_ticks=platform.start_time, boot=platform.boot_id, argv0="skerry"
    )
    return open_process(record)


def _held_by(data: Path) -> str:
    try:
        pid = (data / LOCK_FILE).read_text().strip()
    except OSError:
        return ""
    return f" (pid {pid})" if pid.isdigit() else ""
