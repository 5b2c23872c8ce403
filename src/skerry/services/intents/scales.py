"""The use cases of developers on what their apps ask for: how many instances, and where."""

from collections.abc import Mapping
from typing import final

import msgspec

from skerry.core.geo.distance import site_rtt_ms
from skerry.core.policy.scale import scale_faults, scale_warnings
from skerry.core.policy.scale_changes import changed_scale
from skerry.core.types.app import App, Scale
from skerry.core.types.control import SiteIntent
from skerry.core.types.ids import AccountId, AppName
from skerry.core.types.place import Site
from skerry.ports.clock import Clock
from skerry.services.control import keys
from skerry.services.intents import draft
from skerry.services.intents.repository import Repository, changed_app, not_found, now_after


@final
class Scales:
    """`changes` are parsed JSON by field: what is not named stays, None takes the default back.

    So the last word on a field holds, whether a deploy said it or a command.
    """

    def __init__(self, repository: Repository, clock: Clock) -> None:
        self._repository = repository
        self._clock = clock

    async def change(self, account: AccountId, name: str, changes: Mapping[str, object]) -> App:
        """What runs follows by a new plan, without a new version. Raises `IntentError`."""

        async def attempt() -> App:
            held = await self._repository.held(account, AppName(name))
            if held.app is None:
                raise not_found()
            scale = await self.changed(held.app.scale, changes)
            if scale == held.app.scale:
                return held.app
            app = changed_app(msgspec.structs.replace(held.app, scale=scale), at_ms=now_after(held.app, self._clock.now_ms()))
            evaluation = self._repository.evaluation(account, app.name, "scale", at_ms=app.modified_ms)
            await self._repository.commit(app, held.revision, [evaluation], proof=evaluation.key)
            return app

        return await self._repository.until_committed(attempt)

    async def changed(self, before: Scale, changes: Mapping[str, object]) -> Scale:
        """With the changes, if that makes sense in the sites there are; raises `IntentError`."""
        if not changes:
            return before
        try:
            scale = changed_scale(before, changes)
        except ValueError as error:
            raise draft.invalid(f"The scale is not one: {error}.") from None
        faults = scale_faults(scale, await self._sites(), before=before)
        if faults:
            raise draft.invalid(f"The scale cannot be kept: {'; '.join(faults)}.")
        return scale

    async def warnings(self, scale: Scale) -> tuple[str, ...]:
        """What of it will not come as its author may think."""
        return scale_warnings(scale, await self._sites(), site_rtt_ms)

    async def _sites(self) -> tuple[Site, ...]:
        return tuple(intent.site for intent in await self._repository.all(keys.SITES, SiteIntent))
