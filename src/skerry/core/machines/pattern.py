"""What each hour of the day usually brings. One byte an hour, on a logarithmic scale: 0 not known, 1 nothing.

Hour 0 begins at midnight UTC.
"""

import math

from skerry.core.types.demand import HOURS

HOUR_MS = 3_600_000
UNKNOWN = bytes(HOURS)
NEW_DAY_WEIGHT = 0.3  # of the newest against those before: three days make a habit
_STEPS = 8  # per doubling: 9 %
_LEAST_RPS = 0.01
_TOP = 255


def hour_of_day(now_ms: int) -> int:
    """0 … 23."""
    return now_ms // HOUR_MS % HOURS


def learned(day: bytes, hour: int, rps: float) -> bytes:
    """The day after an hour whose mean was `rps`."""
    before = _rps(day[hour])
    mean = rps if before is None else before + NEW_DAY_WEIGHT * (rps - before)
    return day[:hour] + bytes((_byte(mean),)) + day[hour + 1 :]


def usual_rps(day: bytes, at_ms: int) -> float | None:
    """What is usual at that moment, between the middles of two hours; None: not known."""
    from_middle_ms = at_ms - HOUR_MS // 2
    hour, part = hour_of_day(from_middle_ms), from_middle_ms % HOUR_MS / HOUR_MS
    before, after = _rps(day[hour]), _rps(day[(hour + 1) % HOURS])
    return None if before is None or after is None else before + part * (after - before)


def most_rps(day: bytes) -> float:
    """What its busiest known hour brings."""
    return _rps(max(day)) or 0.0


def _rps(byte: int) -> float | None:
    if byte == 0:
        return None
    return 0.0 if byte == 1 else _LEAST_RPS * 2 ** ((byte - 2) / _STEPS)


def _byte(rps: float) -> int:
    return 1 if rps < _LEAST_RPS else min(_TOP, 2 + round(_STEPS * math.log2(rps / _LEAST_RPS)))
