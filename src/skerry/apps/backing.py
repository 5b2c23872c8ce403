"""Control's state copied while it runs, and put back: the store first, then the blobs, which outlive the versions that need them.

<backup>/  backup.json (written last: what is whole)  store.db  blobs/<first two digits>/<digest>
"""

import os
import re
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from skerry.adapters.blobs.directory import DirectoryBlobs
from skerry.adapters.files import FILE_MODE, make_private_directory, replace_durably, sync_directory
from skerry.adapters.store.restored import advance_revision
from skerry.apps.supervisor.errors import UpError
from skerry.apps.supervisor.lock import DataLock
from skerry.core.types.ids import Digest
from skerry.kit.record import Record, decode, encode
from skerry.ports import blobs as port
from skerry.ports.store import Unavailable

MARK = "backup.json"
STORE = "store.db"
HALF = f"{STORE}.half"
OURS = (STORE, MARK, "blobs")  # names in a backup begin so, also of one that was broken off
PAGES_AT_ONCE = 1024  # of the store: between two such pieces control writes on
FAULTS = (OSError, sqlite3.Error, Unavailable, port.Corrupt, port.TooLarge, port.Unavailable)
_DIGEST = re.compile(r"[0-9a-f]{64}")

Tell = Callable[[str, int, int], None]
"""Of what, how many bytes are done, of how many."""


class Backup(Record):
    """What a directory holds."""

    created_ms: int
    store_bytes: int
    blobs: int
    blob_bytes: int


async def back_up(data: Path, out: Path, tell: Tell) -> Backup:
    """Bring `out` up to date with the platform of `data`. Whenever it is killed, the backup before or this one is whole.

    Raises `UpError`.
    """
    source = data / "control"
    _check(source, out)
    try:
        make_private_directory(out)
        _copy_store(source / STORE, out / HALF, tell)
        kept = await DirectoryBlobs.open(out / "blobs")
        sizes = await _copy_blobs(source / "blobs", kept, tell)
        _take_over(out / HALF, out / STORE)  # not before all that it names is there
        made = Backup(
            created_ms=time.time_ns() // 1_000_000,
            store_bytes=(out / STORE).stat().st_size,
            blobs=len(sizes),
            blob_bytes=sum(sizes.values()),
        )
        replace_durably(out / MARK, encode(made))
        await kept.sweep(frozenset(sizes), older_than_ms=0)
    except FAULTS as error:
        raise UpError(f"no backup was made: {error}", hint="what was there before is still there") from error
    return made


def _check(source: Path, out: Path) -> None:
    if not (source / STORE).is_file():
        raise UpError(f"there is no platform's state in {source.parent}", hint="name it with --data-dir")
    if out.exists() and not (out.is_dir() and all(path.name.startswith(OURS) for path in out.iterdir())):
        raise UpError(f"{out} holds something else than a backup", hint="name a directory that is empty or not there yet")


async def restore(data: Path, backup: Path, tell: Tell, *, replace: bool) -> Backup:
    """Make the state of `backup` that of the platform of `data`, which must not run.

    Raises `UpError`; the platform's state is then as before.
    """
    try:
        made = decode((backup / MARK).read_bytes(), Backup)
    except (OSError, ValueError):
        raise UpError(f"{backup} is no backup, or not a whole one", hint="`skerry backup DIR` makes one") from None
    make_private_directory(data)
    lock = DataLock.take(data)
    try:
        target = data / "control"
        if (target / STORE).exists() and not replace:
            raise UpError(f"{data} has a state of its own", hint="with --replace it is lost, and the backup takes its place")
        make_private_directory(target)
        await _copy_blobs(backup / "blobs", await DirectoryBlobs.open(target / "blobs"), tell)
        _put_store(backup / STORE, target)
    except FAULTS as error:
        raise UpError(f"not restored: {error}", hint="") from error
    finally:
        lock.release()
    return made


def _copy_store(source: Path, half: Path, tell: Tell) -> None:
    half.unlink(missing_ok=True)
    os.close(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE))
    with closing(sqlite3.connect(source)) as there, closing(sqlite3.connect(half)) as here:
        (page,) = there.execute("PRAGMA page_size").fetchone()
        there.backup(here, pages=PAGES_AT_ONCE, progress=lambda _, left, all_: tell("state", (all_ - left) * page, all_ * page))
        (verdict,) = here.execute("PRAGMA quick_check").fetchone()
        here.execute("PRAGMA journal_mode=DELETE")  # one file, nothing beside it
    if verdict != "ok":
        raise sqlite3.DatabaseError(f"the store is damaged: {verdict}")


def _put_store(source: Path, control: Path) -> None:
    half, target = control / HALF, control / STORE
    for path in control.glob(f"{HALF}*"):
        path.unlink()
    shutil.copyfile(source, half)
    half.chmod(FILE_MODE)
    advance_revision(half, at_least=time.time_ns() // 1_000_000)  # restored twice, it has to be ahead of the first time too
    for suffix in ("-wal", "-shm"):  # an old log would spoil the copy
        target.with_name(target.name + suffix).unlink(missing_ok=True)
    _take_over(half, target)
    for path in control.glob(f"{HALF}*"):
        path.unlink()


def _take_over(half: Path, target: Path) -> None:
    descriptor = os.open(half, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    half.replace(target)
    sync_directory(target.parent)


async def _copy_blobs(source: Path, target: DirectoryBlobs, tell: Tell) -> dict[Digest, int]:
    """Sizes of all that are there, by digest. Those that `target` has are not read again."""
    sizes = _sizes(source)
    missing, done, whole = await target.missing(frozenset(sizes)), 0, sum(sizes.values())
    for digest, size in list(sizes.items()):
        if digest in missing:
            try:
                await target.put_stream(DirectoryBlobs(source).stream(digest), digest=digest, bytes_max=size)
            except port.NotFound:  # collected meanwhile: no version needs it
                del sizes[digest]
        done += size
        tell("blobs", done, whole)
    return sizes


def _sizes(root: Path) -> dict[Digest, int]:
    sizes: dict[Digest, int] = {}
    for path in sorted(root.glob("[0-9a-f][0-9a-f]/*")):
        if _DIGEST.fullmatch(path.name):
            try:
                sizes[Digest(path.name)] = path.stat().st_size
            except FileNotFoundError:  # as above
                continue
    return sizes
