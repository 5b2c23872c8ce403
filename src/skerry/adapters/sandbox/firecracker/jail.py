"""How Firecracker is started: by its jailer, in a root directory of its own, as an own user, in the instance's network namespace.

    <jail>/firecracker/<id>/root/   api.sock, v.sock, dev/, firecracker       the monitor's
                                    kernel, initrd, disk, state, memory       bound there, read-only, seen by nobody else

The binds live in a mount namespace that ends with the monitor, so that nothing is left of them whatever is killed. What
outlives it are files: `remove` deletes the directory, since neither the jailer nor Firecracker does.
"""

import os
import shutil
from pathlib import Path

from skerry.adapters.sandbox.microvm.settings import Places
from skerry.kit.record import Record

API_SOCKET, VSOCK_SOCKET, PAGES_SOCKET = "api.sock", "v.sock", "pages.sock"
KERNEL, INITRD, DISK, STATE, MEMORY = "kernel", "initrd", "disk", "state", "memory"
MONITOR_LOG = "firecracker.log"
OPEN_FILES_MAX = 256

# $1: the program's log; $2: limit of files, in 512-byte blocks; then pairs of what is bound to where, "--", the jailer.
# The limit is a soft one: it is lifted while a snapshot is written. SIGXFSZ is ignored already, so a full log loses what comes.
_ENTER = """
log=$1; blocks=$2; shift 2
while [ "$1" != -- ]; do mount --bind "$1" "$2" && mount -o remount,bind,ro "$2" || exit 113; shift 2; done
shift; ulimit -S -f "$blocks"; exec "$@" </dev/null >>"$log" 2>&1
"""


class Programs(Record):
    """Absolute paths. `libraries`: what Firecracker loads; releases load nothing, a distribution's may."""

    firecracker: str
    jailer: str
    version: str
    libraries: tuple[str, ...] = ()


class Jail(Record):
    """One monitor's. `files` are (host path, name in its root); `netns` None: a new one, connected to nothing.
    `file_bytes_max`: of what it writes, which is the log."""

    id: str
    uid: int
    files: tuple[tuple[str, str], ...]
    netns: str | None
    log: str
    file_bytes_max: int


def base(places: Places) -> Path:
    return places.data / "jail"


def root(places: Places, programs: Programs, sandbox_id: str) -> Path:
    return base(places) / Path(programs.firecracker).name / sandbox_id / "root"


def prepare(places: Places, programs: Programs, jail: Jail) -> None:
    """The directory, with a place for each bound file. Raises `OSError`."""
    directory = root(places, programs, jail.id)
    directory.mkdir(mode=0o700, parents=True)
    os.chown(directory, jail.uid, jail.uid)
    for name in (*(name for _, name in jail.files), MONITOR_LOG):
        (directory / name).touch(mode=0o600)
        os.chown(directory / name, jail.uid, jail.uid)
    for library in programs.libraries:
        place = directory / library.lstrip("/")
        place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        place.touch()


def remove(places: Places, programs: Programs, sandbox_id: str) -> None:
    shutil.rmtree(root(places, programs, sandbox_id).parent, ignore_errors=True)


def ids(places: Places, programs: Programs) -> tuple[str, ...]:
    try:
        return tuple(sorted(os.listdir(base(places) / Path(programs.firecracker).name)))  # noqa: PTH208
    except FileNotFoundError:
        return ()


def command(places: Places, programs: Programs, jail: Jail) -> tuple[str, ...]:
    directory = root(places, programs, jail.id)
    files = (*jail.files, *((path, path.lstrip("/")) for path in programs.libraries))
    binds = tuple(part for source, name in files for part in (source, str(directory / name)))
    netns = ("--netns", jail.netns) if jail.netns is not None else ()
    apart = () if jail.netns is not None else ("--net",)
    return (
        "/usr/bin/unshare", "--mount", "--propagation", "private", *apart, "--",
        "/bin/sh", "-c", _ENTER, "sh", jail.log, str(jail.file_bytes_max // 512), *binds, "--",
        programs.jailer, "--id", jail.id, "--exec-file", programs.firecracker, "--uid", str(jail.uid), "--gid", str(jail.uid),
        "--chroot-base-dir", str(base(places)), *netns, "--resource-limit", f"no-file={OPEN_FILES_MAX}", "--",
        "--api-sock", f"/{API_SOCKET}", "--log-path", f"/{MONITOR_LOG}", "--level", "Warning",
    )  # fmt: skip
