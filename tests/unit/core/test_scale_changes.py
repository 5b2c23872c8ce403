"""A scale changed field by field."""

import pytest

from skerry.core.policy.scale_changes import FIELDS, changed_scale, not_default
from skerry.core.types.app import DataCalls, InstanceResources, RegionMin, Scale

HELD = Scale(max_total=3, deny=("sin",), survive_sites=1)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, HELD),
        ({"max_total": 5}, Scale(max_total=5, deny=("sin",), survive_sites=1)),
        ({"max_total": None}, Scale(deny=("sin",), survive_sites=1)),
        ({"deny": []}, Scale(max_total=3, survive_sites=1)),
        ({"deny": None, "survive_sites": None, "max_total": None}, Scale()),
        ({"latency_objective_ms": 40}, Scale(max_total=3, deny=("sin",), survive_sites=1, latency_objective_ms=40.0)),
        (
            {
                "region_min": [{"region": "weur", "count": 2}],
                "calls": [{"data": "db", "per_request": 1.5}],
                "resources": {"memory_mib": 64},
                "max_total": None,
            },
            Scale(
                deny=("sin",),
                survive_sites=1,
                region_min=(RegionMin(region="weur", count=2),),
                calls=(DataCalls(data="db", per_request=1.5),),
                resources=InstanceResources(memory_mib=64),
            ),
        ),
    ],
)
def test_what_is_not_named_stays_and_null_takes_the_default_back(changes: dict[str, object], found: Scale) -> None:
    assert changed_scale(HELD, changes) == found


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max": 3}, ("'max'", "max_total")),
        ({"max_total": "3"}, ("max_total", "int")),
        ({"max_total": True}, ("max_total", "int")),
        ({"deny": "sin"}, ("deny", "array")),
        ({"deny": [1]}, ("deny", "str")),
        ({"region_min": [{"region": "weur"}]}, ("region_min", "count")),
        ({"resources": {"gpus": 1}}, ("resources", "gpus")),
        ({"sticky": 1}, ("sticky", "bool")),
        ({"x" * 10_000: 1}, ("xxx", "the fields are")),
    ],
)
def test_another_name_or_type_is_refused_by_its_field(changes: dict[str, object], words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError) as refused:
        changed_scale(HELD, changes)
    assert all(word in str(refused.value) for word in words)
    assert len(str(refused.value)) < 1000


def test_what_somebody_set_is_told_apart_from_defaults() -> None:
    assert not_default(HELD) == ("max_total", "deny", "survive_sites")
    assert not_default(Scale()) == ()
    assert set(FIELDS) == set(Scale.__struct_fields__)
