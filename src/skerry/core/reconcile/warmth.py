"""Warm before weight: an instance that has just begun to serve takes less than its share, while others of its version can.

Its caches are empty and its code is not yet compiled, and there are others that are neither. It grows in steps. A new version has
no others: how fast that takes over is its rollout's matter, and where all are new they share as ever.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import final

from skerry.core.policy.refill import Ramp, open_percent
from skerry.core.types.ids import InstanceId

WARMING = Ramp(first_percent=20, step_percent=20, step_ms=1_000)


@final
class Warmth:
    """`since_ms`: since when each instance serves. Steps are taken on whole multiples of time, all of a site's together: routes
    are decided anew for each. `next_step_ms`: when the weights that were asked for change next; None: they do not."""

    def __init__(self, since_ms: Mapping[InstanceId, int], now_ms: int, ramp: Ramp = WARMING) -> None:
        self._since_ms = since_ms
        self._now_ms = now_ms
        self._ramp = ramp
        self.next_step_ms: int | None = None

    def divided(self, whole: Fraction, instances: Sequence[InstanceId]) -> dict[InstanceId, Fraction]:
        """`whole`, which is one version's, among its instances."""
        percents = {name: self._percent(name) for name in instances}
        kinds = set(percents.values())
        if len(kinds) > 1:
            self.next_step_ms = (self._now_ms // self._ramp.step_ms + 1) * self._ramp.step_ms
        total = sum(percents.values())
        parts = {percent: whole * Fraction(percent, total) for percent in kinds}
        return {name: parts[percent] for name, percent in percents.items()}

    def _percent(self, name: InstanceId) -> int:
        since_ms = self._since_ms.get(name, 0)
        return open_percent(since_ms - since_ms % self._ramp.step_ms, self._now_ms, self._ramp)
