"""Of a background pass, the apps that a whole plan cannot speak for: each by itself, those that gain most within the budget."""

import asyncio
from collections.abc import Sequence
from typing import final

from skerry.core.types.ids import EvaluationId
from skerry.core.types.plan import Evaluation, Plan
from skerry.kit.hashing import stable_id
from skerry.kit.record import Record
from skerry.ports.store import OPS_MAX
from skerry.services.control.exchanges import Exchanges, moves_text
from skerry.services.control.placer import AppKey, Placer

EVALUATIONS_MAX = OPS_MAX // 4  # of one pass: they are one transaction, courses beside them


class Single(Record):
    """An app that would move alone, to a plan that nobody has made yet."""

    plan: Plan
    starts: int
    evaluation: Evaluation


@final
class Alone:
    """Reads the store's mirror; writes nothing."""

    def __init__(self, placer: Placer, exchanges: Exchanges) -> None:
        self._placer = placer
        self._exchanges = exchanges

    async def find(self, some: Sequence[AppKey], starts_max: int, now_ms: int) -> tuple[Single, ...]:
        """Those that gain most per instance, with at most `starts_max` instances that start in all."""
        found = list[Single]()
        for key in some:
            single = self._look(key, now_ms)
            found += [single] if single is not None else []
            await asyncio.sleep(0)
        found.sort(key=lambda one: (-one.plan.gain / max(1, one.starts), one.evaluation.account, one.evaluation.app))
        chosen, left = list[Single](), starts_max
        for one in found:
            if one.starts <= left and len(chosen) < EVALUATIONS_MAX:
                chosen.append(one)
                left -= one.starts
        return tuple(chosen)

    def _look(self, key: AppKey, now_ms: int) -> Single | None:
        """What another plan would save, and how many instances start for it; None: nothing, or it is decided or released now."""
        if not self._exchanges.is_calm(key):
            return None
        thought = self._placer.thought(key, "rebalance")
        parent = thought[1].parent if thought else None
        if thought is None or parent is None or thought[0].gain <= 0.0:
            return None
        plan = thought[0]
        had, has = parent.counts(), plan.counts()
        starts = sum(max(0, count - had.get(place, 0)) for place, count in has.items())
        evaluation = Evaluation(
            id=EvaluationId(stable_id("rebalance", parent.id, length=32)),
            account=key[0],
            app=key[1],
            cause="rebalance",
            created_ms=now_ms,
            detail=f"saves {plan.gain:.0f} of what is minimised, for {starts} instance(s) that start: {moves_text(had, has)}",
        )
        return Single(plan=plan, starts=starts, evaluation=evaluation)
