"""What a background pass wants of an app is done as a whole, as long as it runs what the pass saw; else nothing moves."""

import pytest
from msgspec.structs import replace

from skerry.core.checks.plan import plan_violations
from skerry.core.placement.place import place, same_decision
from skerry.core.placement.together import may_move
from skerry.core.placement.world import World
from skerry.core.types.app import Scale
from skerry.core.types.ids import SiteId
from skerry.core.types.plan import Plan, Wanted
from skerry.testing.builders import make_app, make_evaluation, make_version, make_view

VERSION = make_version(1)
SHARES = ((VERSION, 100.0),)
APP = make_app(scale=Scale(min_per_site=0, rps_per_instance=2.0))
LHR, CUR = SiteId("lhr"), SiteId("cur")


def world(*, others_mib: int = 0) -> World:
    return World(sites=(make_view("lhr"), make_view("cur", others_mib=others_mib)), demand={LHR: 3.0})


def before() -> Plan:
    return place(world(), APP, SHARES, evaluation=make_evaluation(), parent=None, now_ms=0)


def counts(plan: Plan) -> dict[str, int]:
    return {entry.site: entry.count for entry in plan.placements}


def asked(wanted: Wanted, parent: Plan, seen: World) -> Plan:
    evaluation = replace(make_evaluation(cause="rebalance"), wanted=wanted, detail="Moved by rebalancing: so it is.")
    plan = place(seen, APP, SHARES, evaluation=evaluation, parent=parent, now_ms=1)
    assert plan_violations(plan, seen, APP, SHARES, parent) == ()
    return plan


def test_it_is_done_and_says_why() -> None:
    parent = before()
    assert counts(parent) == {"lhr": 2}
    plan = asked(Wanted(had={LHR: 2}, has={LHR: 1, CUR: 1}, gain=500.0), parent, world())
    assert counts(plan) == {"lhr": 1, "cur": 1}
    assert (plan.cause, plan.gain) == ("rebalance", 500.0)
    assert "Moved by rebalancing: so it is." in plan.report
    later = place(world(), APP, SHARES, evaluation=make_evaluation(cause="capacity"), parent=plan, now_ms=2)
    assert same_decision(later, plan), "nobody takes it back as long as nothing changes"


@pytest.mark.parametrize(
    ("wanted", "others_mib"),
    [
        (Wanted(had={LHR: 1}, has={CUR: 2}, gain=500.0), 0),
        (Wanted(had={LHR: 1, CUR: 1}, has={CUR: 2}, gain=500.0), 0),
        (Wanted(had={LHR: 2}, has={CUR: 2}, gain=500.0), 3 * 1024 - 13),
        (Wanted(had={LHR: 2}, has={SiteId("sin"): 2}, gain=500.0), 0),
    ],
    ids=("it runs more by now", "it runs elsewhere by now", "there is room for a part only", "the city is gone"),
)
def test_what_is_out_of_date_or_finds_no_room_for_all_moves_nothing(wanted: Wanted, others_mib: int) -> None:
    parent = before()
    plan = asked(wanted, parent, world(others_mib=others_mib))
    assert same_decision(plan, parent)
    assert plan.gain == 0.0


@pytest.mark.parametrize(
    ("scale", "versions", "expected"),
    [
        (Scale(min_per_site=0), 1, True),
        (Scale(), 1, False),
        (Scale(min_per_site=0, pin=(LHR,)), 1, False),
        (Scale(min_per_site=0), 2, False),
    ],
)
def test_whole_plans_speak_for_apps_whose_cities_demand_alone_chooses(scale: Scale, versions: int, expected: bool) -> None:
    shares = [(make_version(number + 1), 50.0) for number in range(versions)]
    assert may_move(make_app(scale=scale), shares) is expected
