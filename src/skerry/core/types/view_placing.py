"""What people and programs see of placement's weighing; written and read as `core.types.view` says."""

from typing import Any

import msgspec

from skerry.core.types.ids import SiteId
from skerry.kit.record import Record


class SiteTerms(Record, omit_defaults=False, forbid_unknown_fields=False):
    """What the plan in force costs at one site by today's demand and prices, in the unit of what is minimised.

    `asked_rps` of the users who come in there (`known` False: assumed, as nobody has asked yet), served best at `nearest` over
    `rtt_ms` (`measured` False: modelled); `served_rps` by the instances there, whose terms `latency`, `late`, `cost` and
    `shadow` are. One instance more would save `saves` and cost `costs`, its start included. `may_run`: policy, state and room
    allow it at all.
    """

    asked_rps: float
    known: bool
    served_rps: float
    latency: float
    late: float
    cost: float
    shadow: float
    saves: float
    costs: float
    may_run: bool
    nearest: SiteId | None = None
    rtt_ms: float | None = None
    measured: bool = False


class SettingsView(Record, omit_defaults=False, forbid_unknown_fields=False):
    """Every setting of placement, those that somebody set, the prices of sites that have any, and the last background pass."""

    settings: dict[str, Any]
    set_fields: tuple[str, ...] = ()
    prices: dict[str, dict[str, float]] = msgspec.field(default_factory=dict[str, dict[str, float]])
    measured_rtts: int = 0  # pairs of sites
    rebalanced_ms: int | None = None
    rebalanced_apps: int = 0
    rebalanced_starts: int = 0
