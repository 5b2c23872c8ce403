"""plan.json, as it is."""

import msgspec


class AppPrices(msgspec.Struct):
    """What proves an app's part of the bound."""

    metro: dict[str, float] = {}
    max_total: float = 0.0
    min_total: float = 0.0
    homes: dict[str, str] = {}
    tangents: list[str] = []


class SitePrices(msgspec.Struct):
    """Prices of sites; of the apps that stand apart: home, then level."""

    sites: dict[str, tuple[float, float, float]]
    levels: dict[str, dict[str, float]] = {}


class Certificate(SitePrices):
    """Prices of sites and of apps, other prices of sites, and the apps whose homes these tell apart."""

    apps: dict[str, AppPrices] = {}
    apart: list[str] = []
    others: list[SitePrices] = []


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
