"""What a store needs after it was copied back from a backup, before control is started on it."""

from contextlib import ExitStack, closing
from pathlib import Path

from skerry.adapters.store.base import Transaction
from skerry.adapters.store.lock import Lock
from skerry.adapters.store.sqlite_file import Reader, Writer, connect, create, prepare, translated
from skerry.ports.store import Unavailable

REVISIONS_SKIPPED = 1_000_000_000  # more than any store writes between two backups, and 2^53 holds millions of it


def advance_revision(path: Path, *, by: int = REVISIONS_SKIPPED, at_least: int = 0) -> int:
    """Move a store's revision `by` ahead, and to `at_least`, and forget its history; the new revision.

    A backup is behind what sites have seen: slices carry revisions as their generations, and whoever holds
    a higher one refuses them. What the store holds stays as it is; of its entries, the one that was written last
    is written again. Every watch from before raises `Compacted`. An empty store needs none of it: 0.
    Raises `Locked` when a process has the store open, `Unavailable`, and ValueError.
    """
    if by < 1:
        raise ValueError(f"a revision only goes ahead: {by}")
    if not path.is_file():
        raise Unavailable(f"{path} is not there")
    with translated(path), ExitStack() as stack:
        lock = Lock(path)
        stack.callback(lock.release)
        create(path)  # only for its owner, as a copy seldom is
        connection = stack.enter_context(closing(connect(path)))
        prepare(connection, path)
        newest = connection.execute("SELECT key FROM entries ORDER BY revision DESC, key LIMIT 1").fetchone()
        if newest is None:
            return 0
        entry = Reader(stack.enter_context(closing(connect(path)))).get(newest[0].decode())
        assert entry is not None
        writer = Writer(connection, path, history_transactions_max=1, history_bytes_max=1)
        writer.revision = max(writer.revision + by, at_least) - 1
        rewrite = Transaction(checks=(), writes=((entry.key, entry.value),), size_bytes=len(entry.value))
        writer.commit([rewrite])  # bounds of 1 leave nothing of the history but this
        return writer.revision
