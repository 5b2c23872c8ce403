"""A decoded copy of the store in memory, kept up to date by a watch.

Decisions read it as their snapshot: it is the store as it was at `revision`, never a mixture. What they write
is checked against the revisions that the mirror holds, so an old mirror can only lead to a `Conflict`.
"""

import asyncio
import bisect
import contextlib
from collections.abc import Iterator
from typing import TypeVar

import structlog

from skerry.core.types.account import Account
from skerry.core.types.app import App, Deployment, Version
from skerry.core.types.control import Course, PlanHead, Rebalance, Reservation, Silence, SiteIntent, SiteLedger, SiteRtts
from skerry.core.types.demand import DailyDemand, DecidedDemand
from skerry.core.types.maintenance import Maintenance
from skerry.core.types.plan import Blocked, Evaluation, Plan, Release
from skerry.core.types.settings import Settings, SitePrices
from skerry.kit import record
from skerry.ports.store import PAGE_MAX, Change, Check, Compacted, Page, Store, StoreError
from skerry.services.control import keys

log = structlog.get_logger()

R = TypeVar("R", bound=record.Record)

KINDS: dict[str, type[record.Record]] = {
    keys.ACCOUNTS: Account,
    keys.APPS: App,
    keys.VERSIONS: Version,
    keys.DEPLOYMENTS: Deployment,
    keys.EVALUATIONS: Evaluation,
    keys.PLANS: Plan,
    keys.PLAN_HEADS: PlanHead,
    keys.RELEASES: Release,
    keys.BLOCKED: Blocked,
    keys.SITES: SiteIntent,
    keys.LEDGERS: SiteLedger,
    keys.RESERVATIONS: Reservation,
    keys.DECIDED_DEMAND: DecidedDemand,
    keys.DAILY_DEMAND: DailyDemand,
    keys.SETTINGS: Settings,
    keys.PRICES: SitePrices,
    keys.REBALANCES: Rebalance,
    keys.COURSES: Course,
    keys.RTTS: SiteRtts,
    keys.SILENCES: Silence,
    keys.MAINTENANCE: Maintenance,
}
RETRY_DELAY_S = 0.5  # a store that does not answer is asked again this often


class Bucket:
    """The records of one kind by key, each with the revision that wrote it. `revision`: of the last change."""

    def __init__(self) -> None:
        self.records: dict[str, tuple[record.Record, int]] = {}
        self.revision = 0
        self._ordered: list[str] | None = None  # the keys; None: to be sorted when somebody asks

    def set(self, key: str, found: tuple[record.Record, int]) -> None:
        if key not in self.records:
            self._ordered = None
        self.records[key] = found

    def remove(self, key: str) -> None:
        if self.records.pop(key, None) is not None:
            self._ordered = None

    def under(self, prefix: str) -> list[str]:
        """Keys that start with `prefix`, in order."""
        if self._ordered is None:
            self._ordered = sorted(self.records)
        first = bisect.bisect_left(self._ordered, prefix)
        return self._ordered[first : bisect.bisect_left(self._ordered, prefix + _LAST, first)]


_LAST = "\U0010ffff"  # behind every character of a key
Records = dict[str, Bucket]
"""By kind."""


class Mirror:
    """`get` and `select` read it; `wait_beyond` waits for it to move."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._records: Records = {prefix: Bucket() for prefix in KINDS}
        self._moved = asyncio.Event()
        self.revision = 0

    async def load(self) -> None:
        """Read everything; from then on `run` keeps it current. Raises `StoreError`."""
        pages = await self._read_all()
        records: Records = {prefix: Bucket() for prefix in KINDS}
        for page in pages:
            for entry in page.entries:
                _set(records, entry.key, entry.value, entry.revision)
        # The pages were read one after the other: what was written meanwhile is in some of them and not in others.
        revision, newest = min(page.revision for page in pages), max(page.revision for page in pages)
        if revision < newest:
            async for changes in self._store.watch("", after=revision):
                _apply(records, changes)
                revision = changes[-1].revision
                if revision >= newest:
                    break
        for bucket in records.values():
            bucket.revision = revision  # what is gone shows in no entry
        self._records = records
        self._advance(revision)

    async def run(self) -> None:
        """Follow the store until cancelled; a gap in its history is healed by reading all of it again."""
        while True:
            try:
                async for changes in self._store.watch("", after=self.revision):
                    _apply(self._records, changes)
                    self._advance(changes[-1].revision)
            except Compacted:
                log.warning("mirror_reload", reason="the store's history is gone")
                await self._reload()
            except StoreError as error:
                log.warning("mirror_waits", error=str(error))
            await asyncio.sleep(RETRY_DELAY_S)

    def get(self, key: str, as_type: type[R]) -> R | None:
        found = self._bucket(key).records.get(key)
        if found is None:
            return None
        assert isinstance(found[0], as_type)
        return found[0]

    def check(self, key: str) -> Check:
        """The compare that holds as long as nobody has written `key` since this snapshot."""
        found = self._bucket(key).records.get(key)
        return Check(key=key, revision=found[1] if found else 0)

    def select(self, prefix: str, as_type: type[R]) -> Iterator[R]:
        """Records whose keys start with `prefix`, in key order."""
        bucket = self._bucket(prefix)
        for key in bucket.under(prefix):
            found = bucket.records[key][0]
            assert isinstance(found, as_type)
            yield found

    def changed(self, *prefixes: str) -> int:
        """The revision of the last change in any of these kinds."""
        return max(self._records[prefix].revision for prefix in prefixes)

    async def wait_beyond(self, revision: int, *, wait_ms: int) -> bool:
        """True as soon as `self.revision` is above `revision`; False after `wait_ms`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_ms / 1000):
                while self.revision <= revision:
                    await self._moved.wait()
        return self.revision > revision

    async def _reload(self) -> None:
        while True:
            try:
                return await self.load()
            except StoreError as error:
                log.warning("mirror_waits", error=str(error))
                await asyncio.sleep(RETRY_DELAY_S)

    async def _read_all(self) -> list[Page]:
        pages: list[Page] = []
        for prefix in KINDS:
            after: str | None = None
            while True:
                page = await self._store.range(prefix, after=after, limit=PAGE_MAX)
                pages.append(page)
                if not page.more:
                    break
                after = page.entries[-1].key
        return pages

    def _advance(self, revision: int) -> None:
        self.revision = revision
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    def _bucket(self, key: str) -> Bucket:
        return self._records[_prefix(key)]


def _apply(records: Records, changes: tuple[Change, ...]) -> None:
    for change in changes:
        _set(records, change.key, change.value, change.revision)


def _set(records: Records, key: str, value: bytes | None, revision: int) -> None:
    """An older revision than the one held changes nothing."""
    prefix = _prefix(key)
    if prefix not in KINDS:
        return
    bucket = records[prefix]
    held = bucket.records.get(key)
    if held is not None and held[1] > revision:
        return
    bucket.revision = max(bucket.revision, revision)
    if value is None:
        bucket.remove(key)
    else:
        bucket.set(key, (record.decode(value, KINDS[prefix]), revision))


def _prefix(key: str) -> str:
    return key[: key.index("/") + 1]
