"""What a node does when memory runs short, without I/O: who gives some back, in which order, and why.

    enough ────────────────────────────────────────────────── nothing
    below `low`       what nobody asked for yet goes first (`is_short`, for the caller to see to);
                      what is idle is squeezed, the coldest first; what can be woken by a request ends, if that is not enough
    below `critical`  and then who uses more than it reserved, the lowest priority and the largest excess first

Within what it reserved nobody is ended for others: that was promised.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

from skerry.kit.record import Record


class MemorySettings(Record):
    """Shares are of the node's memory. `waited`: share of the time in which something waited for memory that counts as short."""

    low: float = 0.12
    critical: float = 0.05
    waited: float = 0.20
    idle_ms: int = 30_000  # without work for so long, an instance may be squeezed
    again_ms: int = 60_000  # before the same one is squeezed again
    at_once: int = 4  # actions of one step: their effect is looked at before the next


class Tenant(Record):
    """One instance. `private_bytes`: what is free when it ends. `idle_ms`: since it last worked or had traffic."""

    id: str
    private_bytes: int
    reserved_bytes: int
    idle_ms: int
    priority: int = 50
    squeezed_ms: int | None = None  # ago; None: never
    can_squeeze: bool = False
    can_drop: bool = False  # a request wakes it


class Relief(Record):
    """One action, with its reason for people and what it should give back."""

    id: str
    action: Literal["squeeze", "drop", "end"]
    bytes: int
    reason: str


MIB = 1 << 20


def is_short(*, available_bytes: int, total_bytes: int, waited: float, settings: MemorySettings) -> bool:
    return available_bytes < _low(total_bytes, settings) or waited > settings.waited


def _low(total_bytes: int, settings: MemorySettings) -> int:
    return round(total_bytes * settings.low)


def relieve(
    tenants: Sequence[Tenant], *, available_bytes: int, total_bytes: int, waited: float, settings: MemorySettings
) -> tuple[Relief, ...]:
    """What to do now, in order; nothing when there is enough."""
    if not is_short(available_bytes=available_bytes, total_bytes=total_bytes, waited=waited, settings=settings):
        return ()
    critical = round(total_bytes * settings.critical)
    # Where processes wait although some is free, a little more helps.
    short = max(_low(total_bytes, settings) - available_bytes, critical // 2)
    chosen: list[Relief] = []
    named: set[str] = set()
    for relief in _order(tenants, critical=available_bytes < critical, settings=settings):
        if short <= 0 or len(chosen) >= settings.at_once:
            break
        if relief.id not in named:
            chosen.append(relief)
            named.add(relief.id)
            short -= relief.bytes
    return tuple(chosen)


def _order(tenants: Sequence[Tenant], *, critical: bool, settings: MemorySettings) -> Iterator[Relief]:
    cold = sorted((t for t in tenants if t.idle_ms >= settings.idle_ms), key=lambda t: (-t.idle_ms, t.id))
    for tenant in cold:
        if tenant.can_squeeze and (tenant.squeezed_ms is None or tenant.squeezed_ms >= settings.again_ms):
            yield _relief(tenant, "squeeze", tenant.private_bytes // 2, f"idle for {tenant.idle_ms // 1000} s")
    for tenant in cold:
        if tenant.can_drop:
            yield _relief(tenant, "drop", tenant.private_bytes, f"idle for {tenant.idle_ms // 1000} s; a request wakes it")
    if not critical:
        return
    above = [tenant for tenant in tenants if tenant.private_bytes > tenant.reserved_bytes]
    for tenant in sorted(above, key=lambda t: (t.priority, t.reserved_bytes - t.private_bytes, t.id)):
        used, reserved = tenant.private_bytes // MIB, tenant.reserved_bytes // MIB
        yield _relief(tenant, "end", tenant.private_bytes, f"uses {used} MiB, {used - reserved} more than it reserved")


def _relief(tenant: Tenant, action: Literal["squeeze", "drop", "end"], amount: int, why: str) -> Relief:
    return Relief(id=tenant.id, action=action, bytes=amount, reason=f"the node is short of memory: {why}")
