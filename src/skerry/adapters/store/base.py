"""What every store adapter shares: limits at the border, writes of one key, following the history."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from skerry.ports.store import (
    KEY_BYTES_MAX,
    OPS_MAX,
    PAGE_MAX,
    VALUE_BYTES_MAX,
    Change,
    Check,
    Delete,
    Op,
    Put,
    TooLarge,
)

Batch = tuple[Change, ...]
"""The changes of one transaction, in key order, never empty; all of one revision."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """A checked request. `writes`: the value that each key is left with (None: deleted), in key order."""

    checks: tuple[Check, ...]
    writes: tuple[tuple[str, bytes | None], ...]
    size_bytes: int


def checked(checks: Sequence[Check], ops: Sequence[Op]) -> Transaction:
    """Raises `TooLarge` over a limit and ValueError for what no key can be."""
    if max(len(checks), len(ops)) > OPS_MAX:
        raise TooLarge(f"a transaction has at most {OPS_MAX} checks and {OPS_MAX} ops, not {len(checks)} and {len(ops)}")
    for check in checks:
        checked_key(check.key)
        if check.revision < 0:
            raise ValueError(f"{check.key}: no revision is below 0: {check.revision}")
    left: dict[str, bytes | None] = {}
    for op in ops:
        checked_key(op.key)
        left[op.key] = _checked_value(op) if isinstance(op, Put) else None
    size_bytes = sum(len(key) + len(value or b"") for key, value in left.items())
    return Transaction(checks=tuple(checks), writes=tuple(sorted(left.items())), size_bytes=size_bytes)


def checked_key(key: str) -> str:
    size = len(_utf8(key))
    if size == 0:
        raise ValueError("a key is not empty")
    if size > KEY_BYTES_MAX:
        raise TooLarge(f"a key of {size} bytes is over the limit of {KEY_BYTES_MAX}: {key[:80]}…")
    return key


def checked_range(prefix: str, after: str | None, limit: int) -> None:
    """Raises `TooLarge` or ValueError for what no range can be."""
    for bound in (prefix, after or ""):
        if len(_utf8(bound)) > KEY_BYTES_MAX:
            raise TooLarge(f"a range's bound is over the limit of {KEY_BYTES_MAX} bytes: {bound[:80]}…")
    if not 1 <= limit <= PAGE_MAX:
        raise ValueError(f"a page has 1 to {PAGE_MAX} entries, not {limit}")


def _checked_value(op: Put) -> bytes:
    if len(op.value) > VALUE_BYTES_MAX:
        raise TooLarge(f"{op.key}: a value of {len(op.value)} bytes is over the limit of {VALUE_BYTES_MAX}")
    return op.value


def _utf8(key: str) -> bytes:
    return key.encode()  # a lone surrogate is a UnicodeEncodeError, which is a ValueError


async def follow(
    next_batches: Callable[[int], Awaitable[Sequence[Batch]]], prefix: str, *, after: int
) -> AsyncIterator[tuple[Change, ...]]:
    """The changes under `prefix` of each transaction behind `after`.

    `next_batches(revision)` waits for batches above a revision and returns some, in order and without gaps;
    none when the store is closed. Only a revision is held between two steps, so a watch that is dropped or
    cancelled leaves nothing behind.
    """
    while batches := await next_batches(after):
        for batch in batches:
            after = batch[0].revision
            changes = tuple(change for change in batch if change.key.startswith(prefix))
            if changes:
                yield changes


class StoreBase(ABC):
    """Writes of one key are transactions of one op."""

    @abstractmethod
    async def transact(self, checks: Sequence[Check], ops: Sequence[Op]) -> int: ...

    async def put(self, key: str, value: bytes) -> int:
        return await self.transact((), (Put(key=key, value=value),))

    async def compare_and_set(self, key: str, value: bytes | None, *, revision: int) -> int:
        op = Delete(key=key) if value is None else Put(key=key, value=value)
        return await self.transact((Check(key=key, revision=revision),), (op,))
