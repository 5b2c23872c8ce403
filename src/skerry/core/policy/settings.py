"""A change of the settings of placement, by field: what is not named stays, null takes the default back."""

from collections.abc import Mapping
from math import isfinite

import msgspec

from skerry.core.policy.scale_fields import quoted
from skerry.core.types.settings import Settings

FIELDS = tuple(field.name for field in msgspec.structs.fields(Settings))
WEIGHT_MAX = 1e9
RTT_MS_MAX = 60_000.0

LIMITS: dict[str, tuple[float, float]] = {
    "latency": (1e-6, WEIGHT_MAX),
    "late": (0.0, WEIGHT_MAX),
    "unserved": (1.0, WEIGHT_MAX),
    "cost": (0.0, WEIGHT_MAX),
    "move": (0.0, WEIGHT_MAX),
    "home": (0.0, WEIGHT_MAX),
    "prior_rps": (0.0, 1e6),
    "keep_share": (0.0, 1.0),
    "price_from": (0.1, 0.99),
    "rebalance_every_s": (0, 7 * 24 * 3600),
    "rebalance_moves_max": (0, 100_000),
    "rebalance_gain_min": (0.0, WEIGHT_MAX),
    "rebalance_apps_max": (1, 100_000),
}
"""The least and the most of each field: beyond is a typing error, or sums that lose their digits."""


def changed_settings(settings: Settings, changes: Mapping[str, object]) -> Settings:
    """`changes`: parsed JSON, by field. Raises `ValueError` with the field."""
    unknown = next((name for name in sorted(changes) if name not in FIELDS), None)
    if unknown is not None:
        raise ValueError(f"{quoted(unknown)} is no setting; the settings are {', '.join(FIELDS)}")
    merged = {**{name: getattr(settings, name) for name in FIELDS}, **changes}
    try:
        found = msgspec.convert({name: value for name, value in merged.items() if value is not None}, Settings)
    except msgspec.ValidationError as error:
        raise ValueError(str(error).replace("`$.", "`")) from None
    for name, (least, most) in LIMITS.items():
        value: float = getattr(found, name)
        if not isfinite(value) or not least <= value <= most:
            raise ValueError(f"{name} is {value:g}; it must be {least:g} to {most:g}")
    return found


def rtt_fault(value: object) -> str:
    """What is wrong with a measured round trip; empty: nothing."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not isfinite(value) or not 0.0 <= value <= RTT_MS_MAX:
        return f"a round trip is 0 to {RTT_MS_MAX:g} ms"
    return ""


def set_fields(settings: Settings) -> tuple[str, ...]:
    """The fields that somebody has set to something."""
    plain = Settings()
    return tuple(name for name in FIELDS if getattr(settings, name) != getattr(plain, name))
