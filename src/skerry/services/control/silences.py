"""What is remembered of sites that were given up: a control that starts while a city is dead need not wait to learn it.

Only changes that this control sees itself are written, so that two controls of which one is cut off do not take turns.
"""

import structlog

from skerry.core.types.control import Silence, SiteIntent
from skerry.core.types.ids import SiteId
from skerry.kit import record
from skerry.ports.clock import Clock
from skerry.ports.store import Delete, Op, Put, Store
from skerry.services.control import keys
from skerry.services.control.mirror import Mirror
from skerry.services.control.observed import Observed

log = structlog.get_logger()


class Silences:
    def __init__(self, store: Store, mirror: Mirror, observed: Observed, clock: Clock) -> None:
        self._store = store
        self._mirror = mirror
        self._observed = observed
        self._clock = clock
        self._lost: frozenset[SiteId] | None = None  # as of the last step

    async def step(self) -> None:
        """Write who was given up, and who is back, since the last step. The first step tells `Observed` what was written before.

        Raises `StoreError`; then the next step writes the same.
        """
        sites = [intent.site.id for intent in self._mirror.select(keys.SITES, SiteIntent)]
        if self._lost is None:
            self._lost = frozenset(entry.site for entry in self._mirror.select(keys.SILENCES, Silence))
            self._observed.begin(sites, self._lost)
        lost = frozenset(site for site in sites if self._observed.is_lost(site))
        now_ms = self._clock.now_ms()
        ops: list[Op] = [
            Put(key=keys.silence(s), value=record.encode(Silence(site=s, since_ms=now_ms))) for s in sorted(lost - self._lost)
        ]
        ops += [Delete(key=keys.silence(site)) for site in sorted(self._lost - lost)]
        if ops:
            log.info("sites_judged", lost=sorted(lost - self._lost), back=sorted(self._lost - lost))
            await self._store.transact([], ops)
        self._lost = lost
