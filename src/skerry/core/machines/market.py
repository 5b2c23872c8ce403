"""The market for a node's CPU, without I/O: who has its part for certain, and who runs when nobody else wants to.

Everybody may use what nobody else needs. Who uses more than its floor while there are others *yields*: the kernel lets it run
where nobody else wants the CPU, and whoever else wakes up takes its place at once. Nothing is left unused by that, so it does
not wait for harm to show; the next look is early enough.

    used > floor, not its turn ──► yields ──► would use less than most of its floor, for a while ──► as any other
                                      └────► has credits and it is its turn ──► after the modest, before the others

The floor is the share, or what the node has for it when all that are at work divide it by their shares, if that is more. Where
not even the shares can be had (others outside of the market work too, or too much was promised), it is the latter alone for those
who never stop wanting more.
Credits are what an instance left of its share unused, by its own will or because there was nothing left for it: a few at a time,
in turn, spend them. They do not yield although they are above their floor: whoever wakes up goes first still, but of a CPU that
never rests they get a part. So nobody starves, and the few are few.
"""

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from skerry.core.types.usage import Standing
from skerry.kit.record import Record


class MarketSettings(Record):
    """`burst_s`: credits of so long at the whole share are kept.

    `capacity_millicores`: of the node; `fill` of it is divided, the rest stays free so that who wakes up need not wait.
    """

    capacity_millicores: int = 0
    fill: float = 0.85

    calm: float = 0.8  # of its floor: who would use less than so is modest again …
    calm_ms: int = 3_000  # … after so long
    burst_s: int = 60
    stake_ms: int = 2_000  # credits of so long at the whole share, and one may have its turn …
    turn_ms: int = 10_000  # … until they are spent, or for so long where others may too
    millicores_per_turn: int = 4_000  # of the node, for each that may have its turn at once; one in any case


class Trader(Record):
    """One instance: its share is what it reserved, `most` its limit. `cpu_us` only grows, in the life of one process."""

    id: str
    share_millicores: int
    most_millicores: int
    cpu_us: int
    waited: float | None = None  # share of the time in which it had to wait for the CPU; None: not known
    background: bool = False  # work that nobody waits for: it always yields


class Account(Record):
    """`credit_us`: CPU time saved up. `calm_ms`: for so long one that yields would have used little. `spends`: it is its turn."""

    credit_us: int = 0
    cpu_us: int = 0
    used_millicores: int = 0
    yields: bool = False
    spends: bool = False
    calm_ms: int = 0
    turn_at_ms: int = 0  # when its last turn began


class Market(Record):
    """What the next step has to know."""

    at_ms: int = 0
    accounts: Mapping[str, Account] = {}


class Grant(Record):
    """`millicores`: what it can count on, its limit or its floor. `reason` for people, empty when nothing holds it back.

    Who yields is "last"; who has its turn comes "later" than those who stay within their part, and before those who yield.
    """

    id: str
    millicores: int
    standing: Standing
    credit_us: int
    used_millicores: int
    reason: str = ""


WORKING_MILLICORES = 5  # who uses less does nothing to speak of
ALWAYS_MILLICORES = 900  # who uses or waits for so much does not stop for anything


def trade(
    market: Market, traders: Sequence[Trader], *, now_ms: int, settings: MarketSettings, free_millicores: int | None = None
) -> tuple[Market, tuple[Grant, ...]]:
    """One step. `free_millicores`: of the machine, since the last one; None: not known. Grants in the order of ids."""
    elapsed_ms = now_ms - market.at_ms if market.at_ms else 0
    ordered = sorted(traders, key=lambda trader: trader.id)
    before = {trader.id: market.accounts.get(trader.id) or Account() for trader in ordered}
    used = {trader.id: _used(market.accounts.get(trader.id), trader, elapsed_ms) for trader in ordered}
    floors = _floors(ordered, used, free_millicores, settings)
    accounts = {
        t.id: _booked(before[t.id], t, used[t.id], floors[t.id], elapsed_ms=elapsed_ms, settings=settings) for t in ordered
    }
    greedy = [t for t in ordered if not t.background and (accounts[t.id].yields or used[t.id] > floors[t.id])]
    greedy = greedy if len(ordered) > 1 else []
    spending = _turns(greedy, accounts, now_ms, settings)
    yielding = {trader.id for trader in greedy} - spending
    accounts = {name: _told(account, name in yielding, name in spending, now_ms) for name, account in accounts.items()}
    grants = tuple(_grant(trader, accounts[trader.id], floors[trader.id]) for trader in ordered)
    return Market(at_ms=now_ms, accounts=accounts), grants


def _used(account: Account | None, trader: Trader, elapsed_ms: int) -> int:
    """Millicores since the last step; 0 for a process that is new."""
    if account is None or elapsed_ms <= 0 or trader.cpu_us < account.cpu_us:
        return 0
    return (trader.cpu_us - account.cpu_us) // elapsed_ms


def _wanted(trader: Trader, used: int) -> float:
    """At most so many millicores, if it had not had to wait."""
    return used + (trader.waited or 0.0) * 1000


def _floors(
    traders: Sequence[Trader], used: Mapping[str, int], free_millicores: int | None, settings: MarketSettings
) -> dict[str, int]:
    """What each has for certain."""
    divided = settings.fill * _there(used, free_millicores, settings)
    working = [trader for trader in traders if used[trader.id] >= WORKING_MILLICORES and not trader.background]
    shares = sum(trader.share_millicores for trader in working)
    enough = sum(min(used[trader.id], trader.share_millicores) for trader in working) <= divided

    def floor(trader: Trader) -> int:
        if trader.background:
            return trader.share_millicores
        others = shares - (trader.share_millicores if used[trader.id] >= WORKING_MILLICORES else 0)
        fair = int(divided * trader.share_millicores / (others + trader.share_millicores))
        least = 1 if not enough and _wanted(trader, used[trader.id]) >= ALWAYS_MILLICORES else trader.share_millicores
        return min(max(least, fair), max(trader.share_millicores, trader.most_millicores))

    return {trader.id: floor(trader) for trader in traders}


def _there(used: Mapping[str, int], free_millicores: int | None, settings: MarketSettings) -> int:
    """What instances could have had: less than the node has, where others work too."""
    if free_millicores is None:
        return settings.capacity_millicores
    there = sum(used.values()) + free_millicores
    return min(settings.capacity_millicores, there)


def _booked(before: Account, trader: Trader, used: int, floor: int, *, elapsed_ms: int, settings: MarketSettings) -> Account:
    """What it did since the last step, written down; millicores × ms are CPU µs."""
    saved = (trader.share_millicores - used) * elapsed_ms
    credit = before.credit_us + saved if saved > 0 or before.spends else before.credit_us
    most = trader.share_millicores * settings.burst_s * 1000
    calm = _wanted(trader, used) < floor * settings.calm
    calm_ms = before.calm_ms + elapsed_ms if before.yields and calm else 0
    return Account(
        credit_us=max(0, min(most, credit)),
        cpu_us=trader.cpu_us,
        used_millicores=used,
        yields=before.yields and calm_ms < settings.calm_ms,
        spends=before.spends,
        calm_ms=calm_ms,
        turn_at_ms=before.turn_at_ms,
    )


def _turns(greedy: Sequence[Trader], accounts: Mapping[str, Account], now_ms: int, settings: MarketSettings) -> frozenset[str]:
    """Who need not yield although it is above its floor: who is at it, then those whose last turn is longest ago."""

    def may(trader: Trader) -> bool:
        account = accounts[trader.id]
        return account.credit_us > (0 if account.spends else trader.share_millicores * settings.stake_ms)

    def order(trader: Trader) -> tuple[bool, int, str]:
        account = accounts[trader.id]
        goes_on = account.spends and now_ms - account.turn_at_ms < settings.turn_ms
        return (not goes_on, account.turn_at_ms, trader.id)

    most = max(1, settings.capacity_millicores // settings.millicores_per_turn)
    return frozenset(trader.id for trader in sorted(filter(may, greedy), key=order)[:most])


def _told(account: Account, yields: bool, spends: bool, now_ms: int) -> Account:
    begins = spends and not account.spends
    return replace(account, yields=yields, spends=spends, turn_at_ms=now_ms if begins else account.turn_at_ms)


def _grant(trader: Trader, account: Account, floor: int) -> Grant:
    last, reason = trader.background or account.yields, ""
    if trader.background:
        reason = "background work: it runs when nobody else wants the CPU"
    elif last:
        reason = f"it uses more than its part of the node, {floor} millicores: it runs when nobody else wants the CPU"
    return Grant(
        id=trader.id,
        millicores=floor if last else max(trader.share_millicores, trader.most_millicores),
        standing="last" if last else "later" if account.spends else "first",
        credit_us=account.credit_us,
        used_millicores=account.used_millicores,
        reason=reason,
    )
