"""The market for a node's CPU, without I/O: what each instance may use in the next moment, and why.

Everybody may use what nobody else needs. When those who stay within their share have to wait, the ones above theirs are
slowed, step by step, until nobody waits: first those without credits. Credits are what an instance left of its share unused;
they are spent only while others wait.

    waited share ──► level 0 … 1 ──► grant = floor + (most − floor) × (1 − level)     level counts twice without credits

The floor is the share, or what the node has for it when all that are at work divide it by their shares, if that is more.
Who stays below its floor and has credits is not held at all.

The level rises in proportion to what is waited too much and falls by a fixed step (additive decrease, since freed capacity is
tried out slowly), with a gap between both thresholds, so that it rests in between.
"""

from collections.abc import Mapping, Sequence

from skerry.kit.record import Record


class MarketSettings(Record):
    """Waited shares are of the time: 0.1 is 100 ms of each second. `burst_s`: credits of so long at the whole share are kept.

    `capacity_millicores`: of the node; `fill` of it is divided, the rest stays free so that who wakes up need not wait.
    """

    capacity_millicores: int = 0
    fill: float = 0.85

    high: float = 0.10
    low: float = 0.04
    gain: float = 2.0  # level for each unit of waiting above `high`
    rise_max: float = 0.34  # of the level in one step: three steps from nothing to everything
    fall: float = 0.05
    burst_s: int = 60
    grain_millicores: int = 10  # grants are multiples: small changes are none


class Trader(Record):
    """One instance: its share is what it reserved, `most` its limit. `cpu_us` only grows, in the life of one process."""

    id: str
    share_millicores: int
    most_millicores: int
    cpu_us: int
    waited: float | None = None  # share of the time in which it had to wait for the CPU; None: not known
    background: bool = False  # work that nobody waits for: it never gets more than its share, and the least weight


class Account(Record):
    """`credit_us`: CPU time saved up."""

    credit_us: int = 0
    cpu_us: int = 0
    used_millicores: int = 0


class Market(Record):
    """What the next step has to know."""

    at_ms: int = 0
    level: float = 0.0
    accounts: Mapping[str, Account] = {}


class Grant(Record):
    """`weight` as cpu.shares has it; None: its own. `reason` for people, empty when nothing holds it back."""

    id: str
    millicores: int
    weight: int | None
    credit_us: int
    used_millicores: int
    reason: str = ""


WORKING_MILLICORES = 5  # who uses less does nothing to speak of
PRESSING = 0.9  # of its floor: one that is held there uses a little less
WEIGHT_MIN = 2  # the kernel's least


def trade(
    market: Market, traders: Sequence[Trader], *, waited: float, now_ms: int, settings: MarketSettings
) -> tuple[Market, tuple[Grant, ...]]:
    """One step. `waited`: of the whole node, for when no instance's own waiting is known. Grants in the order of ids."""
    elapsed_ms = now_ms - market.at_ms if market.at_ms else 0
    ordered = sorted(traders, key=lambda trader: trader.id)
    used = {trader.id: _used(market.accounts.get(trader.id), trader, elapsed_ms) for trader in ordered}
    floors = _floors(ordered, used, settings)
    level = market.level
    if elapsed_ms > 0:
        level = _level(level, _suffering(ordered, used, floors, waited), settings)
    contended = level > 0

    def book(trader: Trader) -> Account:
        before = market.accounts.get(trader.id) or Account()
        return _booked(before, trader, used[trader.id], elapsed_ms=elapsed_ms, contended=contended, burst_s=settings.burst_s)

    accounts = {trader.id: book(trader) for trader in ordered}
    grants = tuple(_grant(trader, accounts[trader.id], floors[trader.id], level, settings) for trader in ordered)
    return Market(at_ms=now_ms, level=level, accounts=accounts), grants


def _used(account: Account | None, trader: Trader, elapsed_ms: int) -> int:
    """Millicores since the last step; 0 for a process that is new."""
    if account is None or elapsed_ms <= 0 or trader.cpu_us < account.cpu_us:
        return 0
    return (trader.cpu_us - account.cpu_us) // elapsed_ms


def _floors(traders: Sequence[Trader], used: Mapping[str, int], settings: MarketSettings) -> dict[str, int]:
    """What each has for certain."""
    divided = settings.capacity_millicores * settings.fill
    working = sum(t.share_millicores for t in traders if used[t.id] >= WORKING_MILLICORES and not t.background)

    def floor(trader: Trader) -> int:
        rest = 0 if used[trader.id] >= WORKING_MILLICORES else trader.share_millicores
        fair = 0 if trader.background else int(divided * trader.share_millicores / (working + rest or 1))
        return min(max(trader.share_millicores, fair), max(trader.share_millicores, trader.most_millicores))

    return {trader.id: floor(trader) for trader in traders}


def _suffering(traders: Sequence[Trader], used: Mapping[str, int], floors: Mapping[str, int], waited: float) -> float:
    """How much those wait who stay within their floor. Who is above it, or held at it, waits by his own fault, and work in the
    background may. 0 where nobody is to be slowed."""
    pressing = {t.id for t in traders if used[t.id] > floors[t.id] * PRESSING and t.most_millicores > floors[t.id]}
    modest = [t.waited for t in traders if not t.background and t.waited is not None and t.id not in pressing]
    return max(modest, default=waited) if pressing else 0.0


def _level(level: float, suffering: float, settings: MarketSettings) -> float:
    if suffering > settings.high:
        return min(1.0, level + min(settings.rise_max, settings.gain * (suffering - settings.high)))
    if suffering < settings.low:
        return max(0.0, level - settings.fall)
    return level


def _booked(before: Account, trader: Trader, used: int, *, elapsed_ms: int, contended: bool, burst_s: int) -> Account:
    """millicores × ms are CPU µs."""
    saved = (trader.share_millicores - used) * elapsed_ms
    most = trader.share_millicores * burst_s * 1000
    credit = before.credit_us + saved if saved > 0 or contended else before.credit_us
    return Account(credit_us=max(0, min(most, credit)), cpu_us=trader.cpu_us, used_millicores=used)


def _grant(trader: Trader, account: Account, floor: int, level: float, settings: MarketSettings) -> Grant:
    share, most = trader.share_millicores, max(trader.share_millicores, trader.most_millicores)
    if trader.background:
        return _made(trader, account, share, WEIGHT_MIN, "background work: its share alone")
    if account.credit_us > 0 and account.used_millicores <= floor * PRESSING:
        return _made(trader, account, most, None, "")  # it takes nothing from anybody: a quota would only cut its short bursts
    held = max(0.0, 2 * level - 1) if account.credit_us > 0 else min(1.0, 2 * level)
    granted = floor + round((most - floor) * (1 - held))
    granted = max(floor, granted - granted % settings.grain_millicores)
    if granted >= most:
        return _made(trader, account, most, None, "")
    why = "its credits are used up" if account.credit_us == 0 else "it has credits, but slowing the others was not enough"
    return _made(trader, account, granted, None, f"others wait for the CPU: {granted} of {most} millicores, {why}")


def _made(trader: Trader, account: Account, millicores: int, weight: int | None, reason: str) -> Grant:
    return Grant(
        id=trader.id,
        millicores=millicores,
        weight=weight,
        credit_us=account.credit_us,
        used_millicores=account.used_millicores,
        reason=reason,
    )
