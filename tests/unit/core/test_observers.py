"""Who looks at whom."""

from collections import Counter

from skerry.core.reconcile.observers import OBSERVERS, looked_at
from skerry.core.types.ids import SiteId

NAMES = [SiteId(f"s{number:02}") for number in range(40)]


def ring(names: list[SiteId]) -> dict[SiteId, tuple[SiteId, ...]]:
    return {name: looked_at(name, names) for name in names}


def test_every_site_looks_at_as_many_others_and_is_looked_at_by_as_many() -> None:
    found = ring(NAMES)
    assert all(name not in others and len(set(others)) == OBSERVERS for name, others in found.items())
    assert set(Counter(other for others in found.values() for other in others).values()) == {OBSERVERS}


def test_few_sites_all_look_at_each_other() -> None:
    for count in range(1, OBSERVERS + 2):
        names = NAMES[:count]
        assert {name: set(others) for name, others in ring(names).items()} == {name: {*names} - {name} for name in names}


def test_a_site_that_joins_changes_only_what_those_before_it_look_at() -> None:
    before, after = ring(NAMES[:-1]), ring(NAMES)
    assert sum(before[name] != after[name] for name in before) <= OBSERVERS


def test_a_site_need_not_be_among_its_peers() -> None:
    assert looked_at(NAMES[0], NAMES[1:]) == looked_at(NAMES[0], NAMES)
