"""wrangler's `placement`: what of it is acted on."""

from typing import Any

import pytest

from skerry.wire.cloudflare.placement import with_placement


def near(place: str) -> dict[str, Any]:
    return {"min_per_site": 0, "calls": [{"data": place, "per_request": 3.0}]}


@pytest.mark.parametrize(
    ("scale", "placement", "changes"),
    [
        (None, None, None),
        (None, {}, None),
        (None, {"mode": "smart"}, {"min_per_site": 0}),
        (None, {"mode": "smart", "hint": "wnam"}, near("region:wnam")),
        (None, {"region": "aws:us-east-1"}, near("aws:us-east-1")),
        (None, {"mode": "smart", "hint": "atlantis"}, {"min_per_site": 0}),
        (None, {"region": "aws:us-esat-1"}, None),
        (None, {"region": "us-east-1"}, None),
        (None, {"mode": "off"}, {"min_per_site": None, "calls": None}),
        (None, {"host": "db.example:5432"}, None),
        (None, {"mode": ["smart"]}, None),
        ({"min_per_site": 2}, {"mode": "smart"}, {"min_per_site": 2}),
        ({}, None, {}),
    ],
)
def test_placement_becomes_changes_of_the_scale_and_the_apps_own_word_goes_first(
    scale: dict[str, Any] | None, placement: dict[str, Any] | None, changes: dict[str, Any] | None
) -> None:
    assert with_placement(scale, placement) == changes
