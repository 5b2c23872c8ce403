"""The store's SQLite file, from one thread: schema, transactions, history. `sqlite.py` gives it to asyncio.

Two tables: `entries` is what is; `history` holds, per transaction, what it changed. The newest row of `history`
is never removed: its revision is the store's. Keys are BLOBs, so that their order is that of their bytes.
"""

import os
import sqlite3
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

from skerry.adapters.files import FILE_MODE, sync_directory
from skerry.adapters.store.base import Batch, Transaction
from skerry.ports.store import PAGE_BYTES_MAX, Change, Compacted, Conflict, Entry, Page, Unavailable

APPLICATION_ID = 0x534B5259  # "SKRY", in the file's header
BUSY_TIMEOUT_S = 5.0  # only foreign programs (a backup) can hold a lock that we wait for
WAL_BYTES_KEPT = 16 << 20  # after a checkpoint a larger write-ahead log is cut to this
READ_BYTES_MAX = 8 << 20  # of history in one piece

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # The value comes last: a revision is read without walking through a large value's pages.
        "CREATE TABLE entries (key BLOB PRIMARY KEY, revision INTEGER NOT NULL, value BLOB NOT NULL)",
        "CREATE TABLE history (revision INTEGER PRIMARY KEY, changes BLOB NOT NULL)",
    ),
)
"""Statements that lead from schema n to n + 1. Only ever append."""

_encode_changes = msgspec.msgpack.Encoder().encode
_changes_decoder = msgspec.msgpack.Decoder(tuple[tuple[str, bytes | None], ...])

_NEWEST = "SELECT coalesce(max(revision), 0) FROM history"
_FSYNC_FAILED = frozenset((sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC))


class Broken(Unavailable):
    """The file cannot be trusted until it is opened again."""


@contextmanager
def translated(path: Path) -> Generator[None]:
    """SQLite's and the system's errors as this port's."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise Unavailable(f"{path}: {_described(error)}") from error


def _described(error: BaseException) -> str:
    """With SQLite's own name for it, which says more than its text: "disk I/O error (SQLITE_IOERR_WRITE)"."""
    name: str | None = getattr(error, "sqlite_errorname", None)  # absent on errors of the module itself
    return f"{error} ({name})" if name else str(error)


def create(path: Path) -> None:
    """Make an empty file for its owner alone (SQLite gives its companions the same mode); keep one that is there.

    Only for a path that is not open in this process: closing a second descriptor would drop SQLite's locks.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, FILE_MODE))
    path.chmod(FILE_MODE)
    sync_directory(path.parent)


def connect(path: Path) -> sqlite3.Connection:
    """A connection that may move between threads, one at a time, in autocommit mode."""
    return sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Check that the file is ours, bring its schema up to date, choose durability. Raises `Unavailable`."""
    application_id, schema, tables = (
        _number(connection, sql) for sql in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_schema")
    )
    if application_id != APPLICATION_ID and (application_id or tables):
        raise Unavailable(f"{path} is an SQLite database, but not a store of Skerry")
    if schema > len(MIGRATIONS):
        raise Unavailable(f"{path} was written by a newer Skerry: its schema is {schema}, this one knows up to {len(MIGRATIONS)}")
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise Unavailable(f"{path}: its file system has no shared memory between processes; put the store on a local disk")
    connection.execute("PRAGMA synchronous = FULL")  # an fsync of the log per commit: what is acknowledged survives power loss
    connection.execute("PRAGMA secure_delete = FAST")  # what was deleted is overwritten where that costs no extra write
    connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_KEPT}")
    if schema < len(MIGRATIONS):
        _migrate(connection, schema)


def _migrate(connection: sqlite3.Connection, schema: int) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for statements in MIGRATIONS[schema:]:
        for statement in statements:
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    connection.execute("COMMIT")


class Writer:
    """Commits groups of transactions; the only one that writes. One thread at a time."""

    def __init__(
        self, connection: sqlite3.Connection, path: Path, *, history_transactions_max: int, history_bytes_max: int
    ) -> None:
        self._connection = connection
        self._path = path
        self._transactions_max = history_transactions_max
        self._bytes_max = history_bytes_max
        self.revision = _number(connection, _NEWEST)
        self._transactions = _number(connection, "SELECT count(*) FROM history")
        self._bytes: int = _number(connection, "SELECT coalesce(sum(length(changes)), 0) FROM history")
        self._broken: str | None = None

    def commit(self, group: Sequence[Transaction]) -> tuple[list[int | Conflict], list[Batch]]:
        """Each transaction in turn, all made durable at once: their revisions or conflicts, and what they changed.

        Raises `Unavailable` for the whole group: nothing of it is there, except after `Broken` (unknown until
        the file is opened again).
        """
        if self._broken is not None:
            raise Broken(self._broken)
        before = (self.revision, self._transactions, self._bytes)
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            answers: list[int | Conflict] = []
            batches: list[Batch] = []
            for transaction in group:
                answer, batch = self._apply(transaction)
                answers.append(answer)
                if batch:
                    batches.append(batch)
            if batches:
                self._trim()
            self._connection.execute("COMMIT")
        except BaseException as error:
            self.revision, self._transactions, self._bytes = before
            self._roll_back(error)
            with translated(self._path):
                raise
        return answers, batches

    def _apply(self, transaction: Transaction) -> tuple[int | Conflict, Batch]:
        for check in transaction.checks:
            actual = self._revision_of(check.key)
            if actual != check.revision:
                return Conflict(check.key, expected=check.revision, actual=actual), ()
        revision = self.revision + 1
        batch = tuple(
            Change(key=key, value=value, revision=revision)
            for key, value in transaction.writes
            if self._write(key, value, revision)
        )
        if batch:
            self._record(batch)
        return self.revision, batch

    def _revision_of(self, key: str) -> int:
        row = self._connection.execute("SELECT revision FROM entries WHERE key = ?", (key.encode(),)).fetchone()
        return row[0] if row else 0

    def _write(self, key: str, value: bytes | None, revision: int) -> bool:
        """Whether anything changed: deleting what is absent does not."""
        if value is None:
            return self._connection.execute("DELETE FROM entries WHERE key = ?", (key.encode(),)).rowcount > 0
        self._connection.execute(
            "INSERT INTO entries (key, revision, value) VALUES (?, ?, ?)"
            " ON CONFLICT (key) DO UPDATE SET revision = excluded.revision, value = excluded.value",
            (key.encode(), revision, value),
        )
        return True

    def _record(self, batch: Batch) -> None:
        changes = _encode_changes([(change.key, change.value) for change in batch])
        self.revision = batch[0].revision
        self._connection.execute("INSERT INTO history (revision, changes) VALUES (?, ?)", (self.revision, changes))
        self._transactions += 1
        self._bytes += len(changes)

    def _trim(self) -> None:
        """Drop the oldest history once it is an eighth over its bound: seldom, and not much at a time."""
        slack = self._transactions_max // 8
        if self._transactions <= self._transactions_max + slack and self._bytes <= self._bytes_max:
            return
        bytes_kept = self._bytes_max - self._bytes_max // 8
        last_dropped = 0
        with closing(self._connection.execute("SELECT revision, length(changes) FROM history ORDER BY revision")) as oldest_first:
            for revision, size in oldest_first:
                fits = self._transactions <= self._transactions_max and self._bytes <= bytes_kept
                if fits or revision == self.revision:
                    break
                last_dropped = revision
                self._transactions -= 1
                self._bytes -= size
        self._connection.execute("DELETE FROM history WHERE revision <= ?", (last_dropped,))

    def _roll_back(self, error: BaseException) -> None:
        """After a full disk all goes on once there is room. After a failed fsync nobody can tell what the disk
        holds: the commit could rise again when the file is next opened, after readers saw it absent."""
        if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", None) in _FSYNC_FAILED:
            self._broken = f"{self._path}: the disk failed to keep a write: {_described(error)}; restart to read what it holds"
            raise Broken(self._broken) from error
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error as second:
            self._broken = f"{self._path}: {_described(error)}, then {_described(second)}; restart"
            raise Broken(self._broken) from second

    def close(self) -> None:
        self._connection.close()


class Reader:
    """Reads what is committed, beside the writer. One thread at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        connection.execute("PRAGMA query_only = ON")

    def get(self, key: str) -> Entry | None:
        row = self._connection.execute("SELECT revision, value FROM entries WHERE key = ?", (key.encode(),)).fetchone()
        return Entry(key=key, value=row[1], revision=row[0]) if row else None

    def range(self, prefix: str, after: str | None, limit: int) -> Page:
        first = prefix.encode() if after is None else max(prefix.encode(), after.encode() + b"\x00")
        sql = "SELECT key, revision, value FROM entries WHERE key >= ? AND key < ? ORDER BY key LIMIT ?"
        with self._snapshot():
            revision = self.newest()
            entries: list[Entry] = []
            size = 0
            with closing(self._connection.execute(sql, (first, _behind(prefix.encode()), limit + 1))) as rows:
                for key, at, value in rows:
                    size += len(key) + len(value)
                    if len(entries) == limit or (entries and size > PAGE_BYTES_MAX):
                        return Page(entries=tuple(entries), revision=revision, more=True)
                    entries.append(Entry(key=key.decode(), value=value, revision=at))
            return Page(entries=tuple(entries), revision=revision)

    def newest(self) -> int:
        return _number(self._connection, _NEWEST)

    def history(self, after: int, limit: int) -> tuple[Batch, ...]:
        """At most `limit` transactions above `after`, fewer when they are large; raises `Compacted`."""
        sql = "SELECT revision, changes FROM history WHERE revision > ? ORDER BY revision LIMIT ?"
        with self._snapshot():
            oldest = _number(self._connection, "SELECT coalesce(min(revision), 1) FROM history")
            if after + 1 < oldest:
                raise Compacted(f"the history begins at revision {oldest}, behind {after}")
            batches: list[Batch] = []
            size = 0
            with closing(self._connection.execute(sql, (after, limit))) as rows:
                for revision, changes in rows:
                    size += len(changes)
                    if batches and size > READ_BYTES_MAX:
                        break
                    batches.append(_batch(revision, changes))
            return tuple(batches)

    @contextmanager
    def _snapshot(self) -> Generator[None]:
        """All reads inside see one revision."""
        self._connection.execute("BEGIN")
        try:
            yield
        finally:
            self._connection.execute("COMMIT")

    def close(self) -> None:
        self._connection.close()


def _batch(revision: int, changes: bytes) -> Batch:
    return tuple(Change(key=key, value=value, revision=revision) for key, value in _changes_decoder.decode(changes))


def _behind(prefix: bytes) -> bytes:
    """The first key behind all that start with `prefix`. No byte of UTF-8 is 0xFF, so adding one never carries."""
    return prefix[:-1] + bytes((prefix[-1] + 1,)) if prefix else b"\xff"


def _number(connection: sqlite3.Connection, sql: str) -> int:
    (number,) = connection.execute(sql).fetchone()
    return number
