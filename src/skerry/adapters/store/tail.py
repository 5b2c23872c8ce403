"""The latest transactions in memory, from which watches are served."""

from collections import deque
from itertools import islice

from skerry.adapters.store.base import Batch


class Tail:
    """Transactions in revision order without gaps, bounded by their number and by their bytes.

    `newest` is the revision of the last one appended (or the one it began behind), `oldest` that of
    the first one still held.
    """

    def __init__(self, *, newest: int, transactions_max: int, bytes_max: int) -> None:
        self.newest = newest
        self._batches: deque[Batch] = deque()
        self._bytes = 0
        self._transactions_max = transactions_max
        self._bytes_max = bytes_max

    @property
    def oldest(self) -> int:
        return self.newest - len(self._batches) + 1

    def append(self, batch: Batch) -> None:
        revision = batch[0].revision
        if revision != self.newest + 1:
            raise AssertionError(f"revision {revision} does not follow {self.newest}")
        self.newest = revision
        self._batches.append(batch)
        self._bytes += batch_bytes(batch)
        while len(self._batches) > self._transactions_max or self._bytes > self._bytes_max:
            self._bytes -= batch_bytes(self._batches.popleft())

    def since(self, revision: int, *, limit: int) -> tuple[Batch, ...] | None:
        """At most `limit` transactions above `revision`; None when the first of them is no longer held."""
        skip = revision + 1 - self.oldest
        return tuple(islice(self._batches, skip, skip + limit)) if skip >= 0 else None


def batch_bytes(batch: Batch) -> int:
    """About what a batch weighs in memory."""
    return sum(len(change.key) + len(change.value or b"") for change in batch)
