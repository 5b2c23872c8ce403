"""What placement plans an app for in one city: demand that rises at once and falls slowly. Time is a value.

    expected ─► more than what is asked, less a margin? ─► asked = expected and headroom     at once
    most     ─► greatest in the window ─► far less than what is asked? ─► asked falls        when the window is over

A window lasts `hold_ms`: nothing falls before demand was lower for so long, and nothing twice in that time. A fall that was
in vain (demand was back soon after) doubles the next windows, so that waves of nearly any length end in a level that carries
their crests. Few users who come now and then are asked for at `rps_min`, until nobody came for `silent_ms`.
"""

from msgspec.structs import replace

from skerry.core.types.demand import SiteDemand
from skerry.kit.record import Record


class AskedSettings(Record):
    """Shares are of the demand that is expected (`margin`, `headroom`) or of what is asked (`fall_share`)."""

    margin: float = 0.1  # less than this above the expected demand is too little
    headroom: float = 0.3  # then it becomes so much: what comes before the next decision is carried
    fall_share: float = 0.2  # a lesser fall would change little
    hold_ms: int = 300_000
    vain_max: int = 3  # doublings: 40 minutes
    silent_ms: int = 1_800_000
    rps_min: float = 0.02  # a request in 50 s; less only tells cities with users from those without


class Asked(Record):
    """`rps` is asked for; `peak_rps` is the most that demand may have been since `window_ms`."""

    rps: float = 0.0
    window_ms: int = 0
    peak_rps: float = 0.0
    user_ms: int = 0  # when users were last there; 0: never
    fell_ms: int = 0  # when it fell last; 0: it rose since
    vain: int = 0  # falls in vain, less those that were not


def recalled(rps: float, *, now_ms: int) -> Asked:
    """What was asked for before its history was lost: it holds for a whole window."""
    return Asked(rps=rps, window_ms=now_ms, peak_rps=rps, user_ms=now_ms)


def step(asked: Asked, demand: SiteDemand, *, now_ms: int, settings: AskedSettings) -> Asked:
    """After a look at the city's demand; to be called at each sample, and at `due_ms`."""
    asked = replace(
        asked,
        window_ms=asked.window_ms or now_ms,
        peak_rps=max(asked.peak_rps, demand.most_rps),
        user_ms=now_ms if demand.rps > 0 else asked.user_ms,
    )
    least = settings.rps_min if asked.user_ms and now_ms - asked.user_ms < settings.silent_ms else 0.0
    needed = demand.expected_rps * (1 + settings.margin)
    if max(least, needed if demand.expected_rps >= settings.rps_min else 0.0) > asked.rps:
        return _raised(asked, max(least, demand.expected_rps * (1 + settings.headroom), demand.most_rps), now_ms, settings)
    if now_ms >= due_ms(asked, settings):
        return _turned(asked, demand, least, now_ms, settings)
    return asked


def due_ms(asked: Asked, settings: AskedSettings) -> int:
    """When its window is over."""
    return asked.window_ms + _hold_ms(asked, settings)


def _raised(asked: Asked, rps: float, now_ms: int, settings: AskedSettings) -> Asked:
    vain = asked.vain
    if asked.fell_ms:
        soon = now_ms - asked.fell_ms <= 2 * _hold_ms(asked, settings)
        vain = min(settings.vain_max, vain + 1) if soon else max(0, vain - 1)
    return replace(asked, rps=rps, fell_ms=0, vain=vain)


def _turned(asked: Asked, demand: SiteDemand, least: float, now_ms: int, settings: AskedSettings) -> Asked:
    """The next window; and a fall, when all of the one that is over allows it."""
    carried = asked.peak_rps * (1 + settings.headroom)
    rps = carried if carried >= settings.rps_min else least
    asked = replace(asked, window_ms=now_ms, peak_rps=demand.most_rps)
    if rps > asked.rps * (1 - settings.fall_share):
        return asked
    return replace(asked, rps=max(least, rps), fell_ms=now_ms)


def _hold_ms(asked: Asked, settings: AskedSettings) -> int:
    return settings.hold_ms << asked.vain
