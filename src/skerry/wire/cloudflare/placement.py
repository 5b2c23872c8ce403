"""wrangler's `placement` as changes of an app's scale: what it means where there are cities to choose from.

{"mode": "smart"}                   demand, and what requests call, choose the cities (`min_per_site` 0)
{"mode": "smart", "hint": "weur"}   the same, and each request makes calls in that region of the world
{"region": "aws:us-east-1"}         the same, in that region of a cloud
{"mode": "off"}                     the defaults back: every city that is allowed

What the deployment's own `skerry.scale` says goes first. A hint or region that is not known, `host` and `hostname` are recorded
only: they are no reason to refuse a deployment.
"""

from collections.abc import Mapping
from typing import Any

from skerry.core.types.outside import is_outside

HINTED_CALLS = 3.0  # for each request: from two on, the way to what is called counts more than that to the user


def scale_of_placement(placement: Mapping[str, Any] | None) -> dict[str, Any]:
    """Changes by field; empty: nothing that can be acted on is asked."""
    said = placement or {}
    mode, place = said.get("mode"), _place(said)
    if place is not None:
        return {"min_per_site": 0, "calls": [{"data": place, "per_request": HINTED_CALLS}]}
    if mode == "smart":
        return {"min_per_site": 0}
    return {"min_per_site": None, "calls": None} if mode == "off" else {}


def _place(placement: Mapping[str, Any]) -> str | None:
    """What the app wants to be near to; None: nothing that is known."""
    hint, region = placement.get("hint"), placement.get("region")
    name = f"region:{hint}" if isinstance(hint, str) else region if isinstance(region, str) else ""
    return name if is_outside(name) else None


def with_placement(scale: Mapping[str, Any] | None, placement: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """All changes of the app's scale that a deployment asks for; None: it has no word about it."""
    changes = {**scale_of_placement(placement), **(scale or {})}
    return changes if changes or scale is not None else None
