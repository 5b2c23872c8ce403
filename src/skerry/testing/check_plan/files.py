"""plan.json, as it is."""

import msgspec


class AppPrices(msgspec.Struct):
    """What proves an app's part of the bound."""

    metro: dict[str, float] = {}
    max_total: float = 0.0
    min_total: float = 0.0
    homes: dict[str, str] = {}


class Certificate(msgspec.Struct):
    """Prices of sites and of apps."""

    sites: dict[str, tuple[float, float, float]]
    apps: dict[str, AppPrices]


class File(msgspec.Struct):
    """What is read of plan.json."""

    instances: list[tuple[str, str, float]]
    flows: list[tuple[str, str, str, float]]
    unserved: list[tuple[str, str, float]] = []
    homes: dict[str, str] = {}
    objective: dict[str, float] = {}
    bound: float | None = None
    gap: float | None = None
    certificate: Certificate | None = None
    short: list[tuple[str, str, int]] = []
