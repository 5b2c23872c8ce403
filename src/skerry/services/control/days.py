"""What each hour of the day brings every app, kept in the store as it is learned: control learns it anew in days, not in seconds.

An app is written once an hour at most, as its hour is over, with 24 bytes for each city where some hour is worth a forecast.
"""

from typing import final

from skerry.core.types.app import App
from skerry.core.types.control import SiteIntent
from skerry.core.types.demand import DailyDemand
from skerry.core.types.ids import AccountId, AppName
from skerry.kit import record
from skerry.ports.store import Conflict, Delete, Op, Put, Store, StoreError
from skerry.services.control import keys
from skerry.services.control.mirror import Mirror
from skerry.services.control.observed import Observed

AppKey = tuple[AccountId, AppName]

APPS_MAX = 50  # of one step: hours end for all apps at once, and a record of 340 cities has 15 KiB


@final
class Days:
    def __init__(self, store: Store, mirror: Mirror, observed: Observed) -> None:
        self._store = store
        self._mirror = mirror
        self._observed = observed

    async def step(self) -> None:
        """Write the days of some apps that learned. Raises `StoreError`; then a later step writes them."""
        taken = self._observed.traffic.take_learned(APPS_MAX)
        try:
            await self._write(taken)
        except Conflict:
            await self._write_one_by_one(taken)
        except StoreError:
            self._observed.traffic.give_back(taken)
            raise

    async def _write_one_by_one(self, taken: tuple[AppKey, ...]) -> None:
        """Some app was changed or deleted, or another control learned the same: that one waits for the mirror."""
        for number, key in enumerate(taken):
            try:
                await self._write((key,))
            except Conflict:
                self._observed.traffic.give_back((key,))
            except StoreError:
                self._observed.traffic.give_back(taken[number:])
                raise

    async def _write(self, taken: tuple[AppKey, ...]) -> None:
        """Guarded by the apps, so that nothing is left of one that is deleted meanwhile."""
        ops = {key: op for key in taken if (op := self._op(key)) is not None}
        if ops:
            checks = [self._mirror.check(at) for key in ops for at in (keys.app(*key), keys.daily_demand(*key))]
            await self._store.transact(checks, tuple(ops.values()))

    def _op(self, key: AppKey) -> Op | None:
        """What another control learned in cities that this one does not hear is kept."""
        at = keys.daily_demand(*key)
        held = self._mirror.get(at, DailyDemand)
        if self._mirror.get(keys.app(*key), App) is None:
            return None
        before = held.days if held else {}
        sites = {intent.site.id for intent in self._mirror.select(keys.SITES, SiteIntent)}
        days = {site: day for site, day in self._observed.traffic.days(key, before).items() if site in sites}
        if days == before:
            return None
        return Put(key=at, value=record.encode(DailyDemand(account=key[0], app=key[1], days=days))) if days else Delete(key=at)
