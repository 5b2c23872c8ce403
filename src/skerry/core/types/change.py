"""What could be changed, for a plan that is only looked at."""

from typing import Any, Literal

from msgspec import field

from skerry.kit.record import Record


class AppChange(Record):
    """`scale`: changes by field, as a deploy says them."""

    scale: dict[str, Any]


class SiteChange(Record):
    """down: as if it were lost."""

    state: Literal["up", "draining", "down"]


class Change(Record):
    """By name of the app, by id of the site. `rebalance`: nothing of these, but what a background pass would move now."""

    apps: dict[str, AppChange] = field(default_factory=dict[str, AppChange])
    sites: dict[str, SiteChange] = field(default_factory=dict[str, SiteChange])
    rebalance: bool = False
