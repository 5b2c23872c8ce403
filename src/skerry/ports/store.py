"""The store of control state: ordered keys, revisions, transactions, watches.

Keys are UTF-8 strings of at most `KEY_BYTES_MAX`, values bytes of at most `VALUE_BYTES_MAX`. Every
committed transaction gets one revision, a number that only grows; an entry's `revision` is that of the
transaction that last wrote it, and 0 stands for "absent" in every compare.

Contract of every adapter (the suite is `skerry.testing.contracts.store`):

- `transact` is atomic and serialisable: all checks hold at one revision and all writes appear at the
  next, or nothing happens and `Conflict` is raised. When it returns, the writes survive kill -9 of any
  process. When it raises `Unavailable`, the writes may or may not have happened; callers re-read.
- of several ops on one key the last counts. A transaction that changes nothing (no ops, or only deletes of
  what is absent) returns the current revision and is not seen by watches.
- reads see every transaction that was acknowledged before they began.
- `range` is ordered by key (bytewise) and pages: `after` is exclusive, an empty page is past the end, `more`
  tells whether another follows (a page of large values is cut short at `PAGE_BYTES_MAX`).
- `watch` yields batches in revision order, each transaction whole (its changes under the prefix, in key
  order), none twice, none missing, from `after` (exclusive) on; it raises `Compacted` if the history from
  there is gone, or was never there (a restored backup), upon which the caller reads again by `range` and
  watches from that page's revision.
- values are opaque; nothing is cached by the caller.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from skerry.kit.record import Record

KEY_BYTES_MAX = 512  # keys are paths of ids; longer ones are a bug
VALUE_BYTES_MAX = 1 << 20  # etcd's default request limit is 1.5 MiB
OPS_MAX = 2048  # a plan over 340 cities writes three records for each; etcd needs `--max-txn-ops` of this
PAGE_MAX = 1000
PAGE_BYTES_MAX = 8 << 20  # keys and values; one entry always fits


class StoreError(Exception):
    """The family of this port's errors."""


class Conflict(StoreError):
    """A check did not hold; nothing was written. `key` is the first that failed."""

    def __init__(self, key: str, *, expected: int, actual: int) -> None:
        super().__init__(f"{key}: expected revision {expected}, found {actual}")
        self.key = key
        self.expected = expected
        self.actual = actual


class Unavailable(StoreError):
    """The engine does not answer or is full; the outcome of a write is unknown."""


class TooLarge(StoreError):
    """A key, a value or a transaction is over its limit: a local fault."""


class Compacted(StoreError):
    """The history asked for is gone."""


class Entry(Record):
    key: str
    value: bytes
    revision: int


class Page(Record):
    """Entries in key order, and the revision at which all of them were read."""

    entries: tuple[Entry, ...]
    revision: int
    more: bool = False


class Check(Record):
    """`key` must be at `revision`; 0: must be absent."""

    key: str
    revision: int


class Put(Record, tag=True):
    key: str
    value: bytes


class Delete(Record, tag=True):
    """Deleting what is absent is no error."""

    key: str


Op = Put | Delete


class Change(Record):
    """One key as a transaction left it; `value` None: deleted."""

    key: str
    value: bytes | None
    revision: int


class Store(Protocol):
    """See the module's docstring for the contract."""

    async def get(self, key: str) -> Entry | None: ...

    async def range(self, prefix: str, *, after: str | None = None, limit: int = PAGE_MAX) -> Page:
        """Keys that start with `prefix`, in order, behind `after`."""
        ...

    async def put(self, key: str, value: bytes) -> int:
        """Write without a check; the new revision."""
        ...

    async def compare_and_set(self, key: str, value: bytes | None, *, revision: int) -> int:
        """Write (None: delete) if `key` is at `revision`; raises `Conflict`."""
        ...

    async def transact(self, checks: Sequence[Check], ops: Sequence[Op]) -> int:
        """All or nothing; the new revision. No ops: only the checks, and the current revision."""
        ...

    def watch(self, prefix: str, *, after: int) -> AsyncIterator[tuple[Change, ...]]:
        """Batches of changes, one per transaction; ends only by `aclose` or an error."""
        ...

    async def aclose(self) -> None:
        """Idempotent. What was acknowledged is safe without it."""
        ...


async def entries_under(store: Store, prefix: str) -> AsyncIterator[Entry]:
    """Every entry of a prefix, in order, page by page; what changes meanwhile is there or not."""
    after: str | None = None
    while True:
        page = await store.range(prefix, after=after)
        for entry in page.entries:
            yield entry
        if not page.more or not page.entries:
            return
        after = page.entries[-1].key
