"""wrangler's `placement` as changes of an app's scale: what it means where there are cities to choose from.

{"mode": "smart"}   demand, and the data that requests call, choose the cities (`min_per_site` 0)
{"mode": "off"}     the default back: every city that is allowed

What the deployment's own `skerry.scale` says goes first. Hints and targets (`hint`, `region`, `host`, `hostname`) are recorded
only: demand says where users are, and a hint that no city here can follow is no reason to refuse a deployment.
"""

from collections.abc import Mapping
from typing import Any


def scale_of_placement(placement: Mapping[str, Any] | None) -> dict[str, Any]:
    """Changes by field; empty: nothing that can be acted on is asked."""
    mode = (placement or {}).get("mode")
    if mode == "smart":
        return {"min_per_site": 0}
    return {"min_per_site": None} if mode == "off" else {}


def with_placement(scale: Mapping[str, Any] | None, placement: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """All changes of the app's scale that a deployment asks for; None: it has no word about it."""
    changes = {**scale_of_placement(placement), **(scale or {})}
    return changes if changes or scale is not None else None
