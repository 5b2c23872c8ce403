"""The settings of placement, and round trips that somebody measured: shown, and changed by operators at run time.

Every control reads them from the store; the next decision of an app weighs by them, and the background pass brings all others.
"""

from collections.abc import Mapping

import msgspec

from skerry.core.policy.settings import FIELDS, changed_settings, rtt_fault, set_fields
from skerry.core.types.control import Rebalance, SiteIntent, SiteRtts
from skerry.core.types.ids import SiteId
from skerry.core.types.settings import NO_PRICES, Settings, SitePrices
from skerry.core.types.view_placing import SettingsView
from skerry.kit import record
from skerry.ports.operations import Conflict as NotNow
from skerry.ports.operations import Invalid, NotFound
from skerry.ports.store import Check, Conflict, Op, Put, Store
from skerry.services.control import keys
from skerry.services.control.mirror import Mirror

TRIES_MAX = 5  # compare-and-set races with other operators
Rtts = Mapping[str, Mapping[str, float | None]]


class PlacementSettings:
    def __init__(self, store: Store, mirror: Mirror) -> None:
        self._store = store
        self._mirror = mirror

    def view(self) -> SettingsView:
        settings = self._mirror.get(keys.PLACEMENT_SETTINGS, Settings) or Settings()
        last = self._mirror.get(keys.LAST_REBALANCE, Rebalance)
        prices: dict[str, dict[str, float]] = {}
        for intent in self._mirror.select(keys.SITES, SiteIntent):
            found = self._mirror.get(keys.prices(intent.site.id), SitePrices)
            if found is not None and found != NO_PRICES:
                prices[intent.site.id] = {name: value for name, value in msgspec.structs.asdict(found).items() if value}
        return SettingsView(
            settings={name: getattr(settings, name) for name in FIELDS},
            set_fields=set_fields(settings),
            prices=prices,
            measured_rtts=sum(len(row.to) for row in self._mirror.select(keys.RTTS, SiteRtts)),
            rebalanced_ms=last.at_ms if last else None,
            rebalanced_apps=last.apps if last else 0,
            rebalanced_starts=last.starts if last else 0,
        )

    async def change(self, changes: Mapping[str, object], rtts_ms: Rtts) -> SettingsView:
        """By field and by pair of sites; None takes the default, or the measurement, back. `Invalid`, `NotFound`, `Conflict`."""
        for _ in range(TRIES_MAX):
            checks, ops = self._changed(changes, rtts_ms)
            if not ops:
                return self.view()
            try:
                revision = await self._store.transact(checks, ops)
            except Conflict:
                await self._mirror.wait_beyond(self._mirror.revision, wait_ms=100)
                continue
            while self._mirror.revision < revision:
                await self._mirror.wait_beyond(self._mirror.revision, wait_ms=100)
            return self.view()
        raise NotNow("the settings are being changed by somebody else", hint="try again")

    def _changed(self, changes: Mapping[str, object], rtts_ms: Rtts) -> tuple[list[Check], list[Op]]:
        before = self._mirror.get(keys.PLACEMENT_SETTINGS, Settings) or Settings()
        try:
            after = changed_settings(before, changes)
        except ValueError as error:
            raise Invalid(str(error), hint="`skerry settings` shows what is set") from None
        checks: list[Check] = []
        ops: list[Op] = []
        if after != before:
            checks.append(self._mirror.check(keys.PLACEMENT_SETTINGS))
            ops.append(Put(key=keys.PLACEMENT_SETTINGS, value=record.encode(after)))
        for site, row in sorted(rtts_ms.items()):
            held = self._mirror.get(keys.rtts(SiteId(site)), SiteRtts) or SiteRtts(site=SiteId(site), to={})
            new = SiteRtts(site=held.site, to=self._row(site, held.to, row))
            if new != held:
                checks.append(self._mirror.check(keys.rtts(held.site)))
                ops.append(Put(key=keys.rtts(held.site), value=record.encode(new)))
        return checks, ops

    def _row(self, site: str, held: Mapping[SiteId, float], row: Mapping[str, float | None]) -> dict[SiteId, float]:
        found = dict(held)
        for name in (site, *sorted(row)):
            if self._mirror.get(keys.site(SiteId(name)), SiteIntent) is None:
                raise NotFound(f"there is no site {name[:64]!r}", hint="`skerry sites` lists them")
        for to, value in sorted(row.items()):
            if value is None:
                found.pop(SiteId(to), None)
                continue
            fault = rtt_fault(value)
            if fault:
                raise Invalid(f"{site} to {to}: {fault}")
            found[SiteId(to)] = float(value)
        return dict(sorted(found.items()))
