"""The ledgers of sites: what apps hold there, and the sums that are never above what a site has.

While a release is under way some sites execute its plan and others the one before, so an app holds the larger of both;
the rest is given back when the release is done.
"""

from collections.abc import Mapping

from msgspec.structs import replace

from skerry.core.types.control import Reservation, SiteIntent, SiteLedger
from skerry.core.types.ids import AccountId, AppName, SiteId
from skerry.core.types.resources import Resources
from skerry.kit import record
from skerry.ports.store import Check, Delete, Op, Put
from skerry.services.control import keys
from skerry.services.control.mirror import Mirror

Wanted = Mapping[SiteId, Reservation]


def ledger_changes(
    mirror: Mirror,
    account: AccountId,
    app: AppName,
    wanted: Wanted,
    *,
    growing: bool,
    ahead: dict[SiteId, SiteLedger] | None = None,
) -> tuple[list[Check], list[Op]]:
    """What makes an app's reservations `wanted`, and the checks under which it may be written.

    `growing`: nothing is given back yet. Reservations that stay as they are, are not touched. `ahead`: ledgers that the same
    transaction writes for other apps; it becomes what this one makes of them.
    """
    ahead = {} if ahead is None else ahead
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
        if _amounts(now) != _amounts(new):
            ledger = ahead.get(site) or mirror.get(keys.ledger(site), SiteLedger) or SiteLedger(site=site)
            ahead[site] = _moved(ledger, _amounts(now), _amounts(new))
            checks.append(mirror.check(keys.ledger(site)))
            ops.append(Put(key=keys.ledger(site), value=record.encode(ahead[site])))
    return checks, ops


def others_of(ledger: SiteLedger, own: Reservation | None, capacity: Resources) -> Resources:
    """What the site holds against an app: the reservations of all others.

    When capacity has shrunk below what is held, an app that is there may stay if it fits without those that are about to
    leave; else each of them would go, one after the other.
    """
    if own is None:
        return ledger.reserved
    others = ledger.reserved.less(own.resources)
    staying = others.less(ledger.leaving.less(own.leaving))
    room = capacity.less(others).or_more(own.resources.or_less(capacity.less(staying)))
    return capacity.less(room)


Amounts = tuple[Resources, Resources]
"""What a reservation holds, and how much of it is leaving."""


def _amounts(reservation: Reservation | None) -> Amounts:
    return (reservation.resources, reservation.leaving) if reservation else (Resources(), Resources())


def _moved(ledger: SiteLedger, before: Amounts, after: Amounts) -> SiteLedger:
    return SiteLedger(
        site=ledger.site,
        reserved=ledger.reserved.less(before[0]) + after[0],
        leaving=ledger.leaving.less(before[1]) + after[1],
    )


def _next(now: Reservation | None, wanted: Reservation | None, *, growing: bool) -> Reservation | None:
    if now is None or not growing:
        return wanted
    if wanted is None:
        return replace(now, leaving=now.resources)
    held = wanted.resources.or_more(now.resources)
    return replace(wanted, resources=held, leaving=held.less(wanted.resources))
