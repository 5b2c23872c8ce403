"""The ledgers of sites: what apps hold there, and the sums that are never above what a site has.

While a release is under way some sites execute its plan and others the one before, so an app holds the larger of both;
the rest is given back when the release is done.
"""

from collections.abc import Mapping

from skerry.core.types.control import Reservation, SiteIntent, SiteLedger
from skerry.core.types.ids import AccountId, AppName, SiteId
from skerry.core.types.resources import Resources
from skerry.kit import record
from skerry.ports.store import Check, Delete, Op, Put
from skerry.services.control import keys
from skerry.services.control.mirror import Mirror

Wanted = Mapping[SiteId, Reservation]


def ledger_changes(
    mirror: Mirror, account: AccountId, app: AppName, wanted: Wanted, *, growing: bool
) -> tuple[list[Check], list[Op]]:
    """What makes an app's reservations `wanted`, and the checks under which it may be written.

    `growing`: nothing is given back yet. Reservations that stay as they are, are not touched.
    """
    checks: list[Check] = []
    ops: list[Op] = []
    for intent in mirror.select(keys.SITES, SiteIntent):
        site = intent.site.id
        at = keys.reservation(site, account, app)
        now = mirror.get(at, Reservation)
        new = _next(now, wanted.get(site), growing=growing)
        if now == new:
            continue
        ops.append(Put(key=at, value=record.encode(new)) if new else Delete(key=at))
        before, after = _amount(now), _amount(new)
        if before != after:
            ledger = mirror.get(keys.ledger(site), SiteLedger) or SiteLedger(site=site)
            checks.append(mirror.check(keys.ledger(site)))
            total = SiteLedger(site=site, reserved=ledger.reserved.less(before) + after)
            ops.append(Put(key=keys.ledger(site), value=record.encode(total)))
    return checks, ops


def _next(now: Reservation | None, wanted: Reservation | None, *, growing: bool) -> Reservation | None:
    if now is None or not growing:
        return wanted
    if wanted is None:
        return now
    return Reservation(
        site=wanted.site,
        account=wanted.account,
        app=wanted.app,
        resources=wanted.resources.or_more(now.resources),
        plan_generation=wanted.plan_generation,
    )


def _amount(reservation: Reservation | None) -> Resources:
    return reservation.resources if reservation else Resources()
