"""What the own API asks of the platform (services.operations implements it; tests fake it).

All answers are those of one moment. `account` None is the operator, who sees every account; otherwise only
what belongs to that account is in the answer, and another's app does not exist.
"""

from collections.abc import Mapping
from typing import Literal, Protocol

from skerry.core.types.change import Change
from skerry.core.types.ids import AccountId, AppName, SiteId
from skerry.core.types.view import (
    DemandView,
    DrainView,
    Explanation,
    InstanceView,
    MaintenanceStart,
    MaintenanceView,
    PlanDifference,
    RolloutDetail,
    Status,
)
from skerry.core.types.view_map import AppMap
from skerry.core.types.view_placing import SettingsView


class OperationError(Exception):
    """The family of this port's errors. `hint` says what to do next, for people."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class NotFound(OperationError):
    """No such app, site or node (for this caller)."""


class Conflict(OperationError):
    """The platform's state forbids it now."""


class Invalid(OperationError):
    """What is asked makes no sense."""


class Unavailable(OperationError):
    """The store does not answer; try again."""


class Operations(Protocol):
    async def status(self, account: AccountId | None) -> Status:
        """Everything the caller may see. For a tenant: its apps and instances, the sites, and no nodes."""
        ...

    async def instances(self, account: AccountId, app: AppName) -> tuple[InstanceView, ...]:
        """Of one app, where they were last seen. `NotFound`."""
        ...

    async def drain(self, target: str) -> DrainView:
        """Take no new instances on the node or site, move what is there; idempotent. `NotFound`."""
        ...

    async def undrain(self, target: str) -> DrainView:
        """The reverse; idempotent. `NotFound`."""
        ...

    async def explain(self, account: AccountId, app: AppName, site: SiteId | None) -> Explanation:
        """Where it runs and why; with `site`, inside that site too. `NotFound`."""
        ...

    def settings(self) -> SettingsView:
        """What placement weighs, the prices of sites, the last background pass."""
        ...

    async def change_settings(
        self, changes: Mapping[str, object], rtts_ms: Mapping[str, Mapping[str, float | None]]
    ) -> SettingsView:
        """By field, and by pair of sites; None takes the default, or the measurement, back. `Invalid`, `NotFound`, `Conflict`."""
        ...

    async def demand(self, account: AccountId, app: AppName) -> DemandView:
        """What its users ask for, city by city, and what runs for them. `NotFound`."""
        ...

    async def demands(self, account: AccountId | None) -> tuple[DemandView, ...]:
        """Of every app that the caller may see, without cities."""
        ...

    async def difference(self, seen: AccountId | None, account: AccountId, change: Change) -> PlanDifference:
        """What a change would make of the apps, nothing written; `account` has the apps that it names. `NotFound`, `Invalid`."""
        ...

    async def app_map(self, account: AccountId, app: AppName) -> AppMap:
        """Where it answers and how far its users are from there. `NotFound`."""
        ...

    async def rollout(self, account: AccountId, app: AppName) -> RolloutDetail:
        """How far its latest release is: waves, cities, the health gate's numbers. `NotFound`."""
        ...

    async def change_rollout(self, account: AccountId, app: AppName, word: Literal["pause", "resume", "abort"]) -> RolloutDetail:
        """Hold it, go on, or go back; idempotent. `NotFound`; `Conflict` when none is under way."""
        ...

    async def maintenance(self) -> MaintenanceView:
        """The one that is under way, or the last one."""
        ...

    async def start_maintenance(self, asked: MaintenanceStart, author: str) -> MaintenanceView:
        """Begin one; `author` is for people. `NotFound`; `Invalid`; `Conflict` when one is under way."""
        ...

    async def change_maintenance(self, word: Literal["pause", "resume", "abort"]) -> MaintenanceView:
        """Hold it, go on (and try again what failed), or end it; idempotent. `Conflict` when that makes no sense."""
        ...
