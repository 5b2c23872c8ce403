"""Control's state copied while it runs, and put back: the store first, then the blobs, which outlive the versions that need them.

<backup>/  backup.json (written last: what is whole)  store.db  blobs/<first two digits>/<digest>
"""

import hashlib
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from skerry.adapters.files import FILE_MODE, make_private_directory, replace_durably, sync_directory, write_all
from skerry.adapters.store.restored import advance_revision
from skerry.apps.supervisor.errors import UpError
from skerry.apps.supervisor.lock import DataLock
from skerry.kit.record import Record, decode, encode
from skerry.ports.store import Unavailable

MARK = "backup.json"
STORE = "store.db"
OURS = (STORE, MARK, "blobs")  # names in a backup begin so, also of one that was broken off
PAGES_AT_ONCE = 1024  # of the store: between two such pieces control writes on
CHUNK_BYTES = 1 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}")

Tell = Callable[[str, int, int], None]
"""Of what, how much is done, of how much."""


class Backup(Record):
    """What a directory holds."""

    created_ms: int
    store_bytes: int
    blobs: int
    blob_bytes: int


def back_up(data: Path, out: Path, tell: Tell) -> Backup:
    """Bring `out` up to date with the platform of `data`. Whenever it is killed, the backup before or this one is whole.

    Raises `UpError`.
    """
    source = data / "control"
    if not (source / STORE).is_file():
        raise UpError(f"there is no platform's state in {data}", hint="name it with --data-dir")
    if out.exists() and not (out.is_dir() and all(path.name.startswith(OURS) for path in out.iterdir())):
        raise UpError(f"{out} holds something else than a backup", hint="name a directory that is empty or not there yet")
    try:
        make_private_directory(out)
        _copy_store(source / STORE, out / STORE, tell)
        blobs = _copy_blobs(source / "blobs", out / "blobs", tell)
        made = Backup(
            created_ms=time.time_ns() // 1_000_000,
            store_bytes=(out / STORE).stat().st_size,
            blobs=len(blobs),
            blob_bytes=sum(blobs.values()),
        )
        replace_durably(out / MARK, encode(made))
    except (OSError, sqlite3.Error) as error:
        raise UpError(f"no backup was made: {error}", hint="what was there before is still there") from error
    for path in _blobs(out / "blobs"):
        if path.name not in blobs:
            path.unlink()
    return made


def restore(data: Path, backup: Path, tell: Tell, *, replace: bool) -> Backup:
    """Make the state of `backup` that of the platform of `data`, which must not run. Raises `UpError`, having changed nothing."""
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
        _copy_blobs(backup / "blobs", target / "blobs", tell)
        _put_store(backup / STORE, target / STORE)
    except (OSError, sqlite3.Error, Unavailable) as error:
        raise UpError(f"not restored: {error}", hint="") from error
    finally:
        lock.release()
    return made


def _copy_store(source: Path, target: Path, tell: Tell) -> None:
    half = target.with_name(f"{STORE}.half")
    half.unlink(missing_ok=True)
    os.close(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE))
    with closing(sqlite3.connect(source)) as there, closing(sqlite3.connect(half)) as here:
        there.backup(here, pages=PAGES_AT_ONCE, progress=lambda _, left, all_: tell("state", all_ - left, all_))
        (verdict,) = here.execute("PRAGMA quick_check").fetchone()
        here.execute("PRAGMA journal_mode=DELETE")  # one file, nothing beside it
    if verdict != "ok":
        raise sqlite3.DatabaseError(f"the store is damaged: {verdict}")
    _durable(half)
    half.replace(target)
    sync_directory(target.parent)


def _put_store(source: Path, target: Path) -> None:
    half = target.with_name(f"{STORE}.half")
    for path in target.parent.glob(f"{half.name}*"):
        path.unlink()
    shutil.copyfile(source, half)
    half.chmod(FILE_MODE)
    advance_revision(half, at_least=time.time_ns() // 1_000_000)  # restored twice, it has to be ahead of the first time too
    _durable(half)
    for suffix in ("-wal", "-shm"):  # an old log would spoil the copy
        target.with_name(target.name + suffix).unlink(missing_ok=True)
    half.replace(target)
    for path in target.parent.glob(f"{half.name}*"):
        path.unlink()
    sync_directory(target.parent)


def _durable(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _copy_blobs(source: Path, target: Path, tell: Tell) -> dict[str, int]:
    """Sizes, by digest, of all that are there. Those that `target` has are not read again."""
    sizes: dict[str, int] = {}
    for path in _blobs(source):
        try:
            sizes[path.name] = path.stat().st_size
        except FileNotFoundError:  # collected meanwhile: no version needs it
            continue
    done, whole = 0, sum(sizes.values())
    for digest, size in list(sizes.items()):
        there = target / digest[:2] / digest
        if not (there.exists() and there.stat().st_size == size) and not _copy_blob(source / digest[:2] / digest, there):
            del sizes[digest]
        done += size
        tell("blobs", done, whole)
    return sizes


def _blobs(root: Path) -> Iterator[Path]:
    for path in sorted(root.glob("[0-9a-f][0-9a-f]/*")):
        if _DIGEST.fullmatch(path.name):
            yield path


def _copy_blob(source: Path, target: Path) -> bool:
    """False: it is no longer there."""
    try:
        reader = source.open("rb")
    except FileNotFoundError:
        return False
    make_private_directory(target.parent)
    half, hasher = target.with_name(f".{target.name}.half"), hashlib.sha256()
    with reader:
        descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE)
        try:
            while chunk := reader.read(CHUNK_BYTES):
                hasher.update(chunk)
                write_all(descriptor, chunk)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    if hasher.hexdigest() != target.name:
        half.unlink()
        raise OSError(f"{source} is damaged: its content is not what its name says")
    half.replace(target)
    sync_directory(target.parent)
    return True
