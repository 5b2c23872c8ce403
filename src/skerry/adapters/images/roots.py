"""Root file systems of instances: overlayfs over shared layers, with a writable layer of its own size.

    layers, seen through the instance's user ids (a mapped mount that hangs nowhere)     lower
    a sparse file of `writable_mib`, ext4 on a loop device                               upper
    <run>/root/<instance>/fs                                                             mounted here, in this place alone

A full writable layer is the instance's own trouble. Everything goes with the mount: the kernel frees the loop device. What
a killed agent leaves is found by the instance's name.
"""

import contextlib
import errno
import os
import secrets
import shutil
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

from skerry.adapters import kernel
from skerry.adapters.kernel import NODEV, NOSUID
from skerry.ports.images import ImagesUnavailable

UIDS = 65_536  # of one instance; the range begins at a multiple of it
UID_FIRST, UID_RANGES = 0x7100_0000, 3840  # above all that systemd hands out and those of workers, below 2^31
WRITABLE_MIB_MIN = 8  # of an ext4 that still has room
_UNMAPPABLE = (errno.EINVAL, errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP)  # this kernel or file system has no mapped mounts


class Roots:
    """`data` holds what may be large, `run` is where things are mounted: others may pass through it."""

    def __init__(self, data: Path, run: Path, layers: Path) -> None:
        self._writable = data / "writable"
        self._empty = data / "empty"
        self._run = run / "root"
        self._layers = layers
        self._taking = threading.Lock()

    def prepare(self) -> None:
        for path in (self._writable, self._empty):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in (self._run.parent, self._run):
            path.mkdir(mode=0o711, parents=True, exist_ok=True)
            path.chmod(0o711)

    def path(self, instance: str) -> Path:
        return self._run / instance / "fs"

    def mounted(self, instance: str) -> bool:
        return os.path.ismount(self.path(instance))

    def names(self) -> frozenset[str]:
        return frozenset(path.stem for path in (*self._run.iterdir(), *self._writable.iterdir()))

    def free_range(self) -> int:
        """The first user id of a range that no instance here has."""
        taken = {self._range(name) for name in self.names()}
        return next(first for first in range(UID_FIRST, UID_FIRST + UID_RANGES * UIDS, UIDS) if first not in taken)

    def mount(self, instance: str, names: Sequence[str], *, writable_mib: int) -> Path:
        """`names` of layers, the lowest first. Blocks for some 10 ms; raises `ImagesUnavailable`."""
        self.unmount(instance)
        place = self.path(instance)
        try:
            first = self._take_range(place.parent)
            place.mkdir()
            image = self._make_writable(instance, max(writable_mib, WRITABLE_MIB_MIN))
            self._mount(place, image, names, first)
        except OSError as error:
            self.unmount(instance)
            raise ImagesUnavailable(f"root file system of {instance}: {error}") from error
        return place

    def unmount(self, instance: str) -> None:
        """Idempotent, and right after half of a `mount`."""
        place = self.path(instance)
        kernel.unmount(place)
        kernel.unmount(place.parent / "upper")
        (self._writable / f"{instance}.img").unlink(missing_ok=True)
        shutil.rmtree(place.parent, ignore_errors=True)

    def read_only(self, place: Path, names: Sequence[str]) -> None:
        """All layers of an image as one, at `place`."""
        place.mkdir(parents=True, exist_ok=True)

        def work() -> None:
            os.chdir(self._layers)
            if len(names) == 1:
                kernel.bind(self._layers / names[0], place)
            else:
                kernel.mount("skerry", str(place), "overlay", flags=NOSUID | NODEV, options=f"{_lower(names)},userxattr")

        kernel.apart(work)

    def _take_range(self, directory: Path) -> int:
        """Marked as taken by the directory's group, which also lets root inside pass. Mounts are made in several threads."""
        with self._taking:
            first = self.free_range()
            directory.mkdir(mode=0o700)
            os.chown(directory, 0, first)
            directory.chmod(0o710)
        return first

    def _range(self, instance: str) -> int:
        with contextlib.suppress(OSError):
            return (self._run / instance).stat().st_gid
        return 0

    def _make_writable(self, instance: str, mib: int) -> Path:
        """Copied from an empty one: making a file system takes ten times as long."""
        empty = self._empty / f"{mib}.img"
        if not empty.exists():
            make_ext4(empty, mib, "-O", "^has_journal,^resize_inode")
        target = self._writable / f"{instance}.img"
        _copy_sparse(empty, target)
        return target

    def _mount(self, place: Path, image: Path, names: Sequence[str], first: int) -> None:
        lower, owner = self._open_lower(first)
        upper = place.parent / "upper"
        upper.mkdir()
        loop = kernel.attach_loop(image)

        def work() -> None:
            os.fchdir(lower)
            kernel.mount(f"/proc/self/fd/{loop}", str(upper), "ext4", flags=NOSUID | NODEV, options="errors=continue")
            for name in ("upper", "work"):
                (upper / name).mkdir(mode=0o755)
                os.chown(upper / name, owner, owner)
            own = f"upperdir={upper}/upper,workdir={upper}/work"
            kernel.mount("skerry", str(place), "overlay", flags=NOSUID | NODEV, options=f"{_lower(names)},{own},userxattr")

        try:
            kernel.apart(work)
        finally:
            kernel.unmount(upper)  # overlayfs holds it
            os.close(loop)
            os.close(lower)

    def _open_lower(self, first: int) -> tuple[int, int]:
        """(descriptor of the layers' directory, who root is in them): mapped, where this kernel can."""
        userns = kernel.make_userns(first, UIDS)
        try:
            return kernel.open_mapped_tree(self._layers, userns), first
        except OSError as error:
            if error.errno not in _UNMAPPABLE:
                raise
            return os.open(self._layers, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), 0
        finally:
            os.close(userns)


def make_ext4(path: Path, mib: int, *options: str) -> None:
    """Whole or not there; raises `ImagesUnavailable`."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")  # two threads may make the same one
    with temporary.open("wb") as file:
        file.truncate(mib << 20)
    command = ["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-E", "lazy_itable_init=1,nodiscard", *options]
    try:
        done = subprocess.run([*command, str(temporary)], capture_output=True, text=True, check=False)
    except OSError as error:
        temporary.unlink()
        raise ImagesUnavailable(f"mke2fs: {error.strerror}; sudo apt-get install e2fsprogs") from error
    if done.returncode != 0:
        temporary.unlink()
        raise ImagesUnavailable(f"mke2fs: {done.stderr.strip()[-300:]}")
    temporary.rename(path)


def _lower(names: Sequence[str]) -> str:
    """overlayfs names the uppermost first."""
    return "lowerdir=" + ":".join(reversed(names))


def _copy_sparse(source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("wb") as writer:
        size = os.fstat(reader.fileno()).st_size
        writer.truncate(size)
        target.chmod(0o600)
        at = 0
        while at < size:
            try:
                start = os.lseek(reader.fileno(), at, os.SEEK_DATA)
            except OSError:  # ENXIO: only a hole is left
                return
            at = os.lseek(reader.fileno(), start, os.SEEK_HOLE)
            while start < at:
                start += os.copy_file_range(reader.fileno(), writer.fileno(), at - start, start, start)
