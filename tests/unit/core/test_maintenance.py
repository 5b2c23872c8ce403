"""Fleet maintenance: which nodes, when, and what stops it."""

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from skerry.core.machines.maintenance import (
    AppFacts,
    Facts,
    MaintenanceSettings,
    NodeFacts,
    NotNow,
    abort,
    begin,
    is_over,
    out_of_service,
    pause,
    resume,
    step,
    tasks,
    token,
)
from skerry.core.types.ids import NodeId, SiteId
from skerry.core.types.maintenance import OUT_OF_SERVICE, Maintenance, TaskReport
from skerry.core.types.place import PlaceState

LIMITS = MaintenanceSettings(drain_ms_max=60_000, back_ms_max=30_000, well_ms=1_000)
SMALL = {"aaa": 3, "bbb": 3, "ccc": 2}


class Fleet:
    """Nodes that do what they are told, one tick after they are; `stuck` never empty, `dead` do not answer, `failing` fail."""

    def __init__(self, cities: Mapping[str, int], *, percent: int = 10, apps: tuple[AppFacts, ...] = ()) -> None:
        self.nodes = {NodeId(f"{city}-{n}"): SiteId(city) for city, count in cities.items() for n in range(1, count + 1)}
        self.now_ms, self.apps = 0, apps
        self.stuck, self.dead, self.failing = set[str](), set[str](), set[str]()
        self.empty, self.told = set[str](), dict[str, TaskReport]()
        counts = {site: 1 if site == "ccc" else 5 for site in self.nodes.values()}
        self.job = begin(id_="1", task="reboot", percent=percent, author="me", nodes=self.nodes, instances=counts, now_ms=0)

    def facts(self) -> Facts:
        out = {node for nodes in out_of_service(self.job).values() for node in nodes}

        def state(node: NodeId) -> PlaceState:
            return "down" if node in self.dead else "draining" if node in out else "up"

        return Facts(
            nodes={
                node: NodeFacts(site=site, state=state(node), instances=int(node not in self.empty), task=self.told.get(node))
                for node, site in self.nodes.items()
            },
            apps=self.apps,
        )

    def tick(self, times: int = 1) -> Maintenance:
        for _ in range(times):
            self.now_ms += 1_000
            self.job = step(self.job, self.facts(), self.now_ms, LIMITS)
            out = {node for nodes in out_of_service(self.job).values() for node in nodes}
            self.empty = {node for node in out if node not in self.stuck}
            for order in tasks(self.job):
                bad = order.node in self.failing
                self.told[order.node] = TaskReport(
                    token=order.token, state="failed" if bad else "done", detail="boom" if bad else ""
                )
        return self.job

    def phases(self) -> dict[str, str]:
        return {work.node: work.phase for work in self.job.nodes}

    def out(self) -> list[str]:
        return [work.node for work in self.job.nodes if work.phase in OUT_OF_SERVICE]


def test_the_city_that_runs_least_goes_first_then_one_node_at_a_time_until_all_are_done() -> None:
    fleet, order = Fleet(SMALL), list[str]()
    for _ in range(200):
        fleet.tick()
        assert len(fleet.out()) <= 1
        order += [node for node in fleet.out() if node not in order]
        if is_over(fleet.job):
            break
    assert fleet.job.state == "done"
    assert order == ["ccc-1", "ccc-2", "aaa-1", "aaa-2", "aaa-3", "bbb-1", "bbb-2", "bbb-3"]


def test_as_many_at_a_time_as_the_share_of_a_city_and_of_all_allows() -> None:
    fleet, most, of_city = Fleet({"aaa": 10, "bbb": 10, "ccc": 20}, percent=20), 0, 0
    while not is_over(fleet.job):
        fleet.tick()
        most = max(most, len(fleet.out()))
        of_city = max(of_city, *(sum(node.startswith(city) for node in fleet.out()) for city in ("aaa", "bbb")))
    assert (most, of_city) == (4, 2)


def test_a_node_that_is_down_for_other_reasons_counts() -> None:
    fleet = Fleet(SMALL)
    fleet.dead = {"bbb-3"}
    fleet.tick(5)
    assert fleet.out() == []
    assert fleet.job.detail == "1 of 8 nodes of the fleet are out of service"
    fleet.dead = set()
    fleet.tick()
    assert fleet.out() == ["ccc-1"]


def test_what_is_down_to_the_end_is_left_out_and_named() -> None:
    fleet = Fleet({"aaa": 20, "ccc": 1}, percent=20)
    fleet.dead = {"aaa-7"}
    while not is_over(fleet.job):
        fleet.tick()
    assert fleet.job.state == "done"
    assert fleet.job.detail == "not done, as they did not answer: aaa-7"
    assert fleet.phases()["aaa-7"] == "skipped"


@pytest.mark.parametrize(
    ("attribute", "seconds", "said"),
    [
        ("stuck", 63, "ccc-1: not empty within 1 min: 1 instance(s) have no other place"),
        ("failing", 6, "ccc-1: reboot failed: boom"),
    ],
)
def test_it_stops_by_itself_and_says_why(attribute: str, seconds: int, said: str) -> None:
    fleet = Fleet(SMALL)
    setattr(fleet, attribute, {"ccc-1"})
    fleet.tick(seconds)
    assert (fleet.job.state, fleet.job.detail) == ("stopped", said)
    assert fleet.out() == ["ccc-1"], "it stays out of service, to be looked at"
    setattr(fleet, attribute, set[str]())
    old = token(fleet.job, fleet.job.nodes[0])
    fleet.job = resume(fleet.job, fleet.now_ms)
    assert token(fleet.job, fleet.job.nodes[0]) != old, "tried again, it is another order"
    while not is_over(fleet.job):
        fleet.tick()
    assert set(fleet.phases().values()) == {"done"}


def test_one_that_does_not_come_back_stops_it() -> None:
    fleet = Fleet(SMALL)
    fleet.tick(2)
    assert fleet.phases()["ccc-1"] == "doing"
    fleet.dead, fleet.told = {"ccc-1"}, {}
    fleet.tick(31)
    assert fleet.job.detail == "ccc-1: it did not come back within 30 s"
    assert fleet.job.state == "stopped"


def test_one_that_falls_again_after_its_task_is_not_counted_as_well() -> None:
    fleet = Fleet(SMALL)
    fleet.tick(4)
    assert fleet.phases()["ccc-1"] == "returning"
    fleet.dead = {"ccc-1"}
    fleet.tick(20)
    assert fleet.phases()["ccc-1"] == "returning"
    fleet.tick(20)
    assert fleet.job.state == "stopped"


def test_an_abort_gives_back_what_has_not_begun_its_task() -> None:
    fleet = Fleet({"aaa": 30, "ccc": 1}, percent=20)
    fleet.stuck = {"aaa-2"}
    while fleet.phases()["aaa-3"] != "doing":
        fleet.tick()
    fleet.job = abort(fleet.job, fleet.now_ms)
    assert fleet.job.state == "aborting"
    assert "aaa-2" not in fleet.out()
    while not is_over(fleet.job):
        fleet.tick()
    assert fleet.job.state == "aborted"
    assert fleet.out() == []
    with pytest.raises(NotNow):
        abort(fleet.job, fleet.now_ms)


@pytest.mark.parametrize(("aborted", "phase"), [(False, "draining"), (True, "skipped")])
def test_a_node_that_was_taken_for_empty_by_mistake_is_waited_for_or_given_back(*, aborted: bool, phase: str) -> None:
    """A city that has just started tells of no instance on a node that it has not heard."""
    fleet = Fleet({"ccc": 1, "aaa": 1})
    fleet.stuck = {"ccc-1"}
    fleet.tick()
    fleet.empty.add("ccc-1")
    fleet.job = step(fleet.job, fleet.facts(), fleet.now_ms, LIMITS)
    assert fleet.job.nodes[0].phase == "doing"
    fleet.empty.discard("ccc-1")
    fleet.job = abort(fleet.job, fleet.now_ms) if aborted else fleet.job
    fleet.job = step(fleet.job, fleet.facts(), fleet.now_ms, LIMITS)
    assert fleet.job.nodes[0].phase == phase
    assert tasks(fleet.job) == ()
    assert is_over(fleet.job) == aborted


def test_paused_it_finishes_what_is_under_way() -> None:
    fleet = Fleet(SMALL)
    fleet.tick(2)
    fleet.job = pause(fleet.job, fleet.now_ms)
    fleet.tick(20)
    assert [phase for phase in fleet.phases().values() if phase != "waiting"] == ["done"]
    assert fleet.job.state == "paused"
    with pytest.raises(NotNow):
        pause(replace(fleet.job, state="stopped"), 0)


@pytest.mark.parametrize(
    ("app", "said"),
    [
        (AppFacts(app="x", survive_sites=1, min_total=0, serves=(NodeId("aaa-1"), NodeId("ccc-1"))), "loss of 1"),
        (AppFacts(app="x", survive_sites=0, min_total=3, serves=(NodeId("aaa-1"), NodeId("ccc-1"))), "3 are asked for"),
        (AppFacts(app="x", survive_sites=0, min_total=0, serves=(NodeId("ccc-1"),)), ""),
    ],
)
def test_a_city_gives_up_its_last_node_only_when_apps_can_do_without(app: AppFacts, said: str) -> None:
    fleet = Fleet({"aaa": 3, "ccc": 1}, apps=(app,))
    fleet.tick()
    assert said in fleet.job.detail
    assert fleet.out() == ([] if said else ["ccc-1"])


@settings(max_examples=60, deadline=None)
@given(
    cities=st.dictionaries(st.sampled_from(("aaa", "bbb", "ccc", "ddd")), st.integers(1, 9), min_size=1),
    percent=st.integers(1, 50),
    trouble=st.lists(st.tuples(st.sampled_from(("dead", "failing", "stuck", "heal", "pause", "resume")), st.integers(0, 30))),
)
def test_limits_hold_whatever_happens_and_it_ends_when_all_is_well(
    cities: dict[str, int], percent: int, trouble: list[tuple[str, int]]
) -> None:
    fleet = Fleet(cities, percent=percent)
    names = sorted(fleet.nodes)

    def check() -> None:
        assert len(fleet.out()) <= max(1, len(names) * percent // 100)
        for city, count in cities.items():
            assert sum(fleet.nodes[NodeId(node)] == city for node in fleet.out()) <= max(1, count * percent // 100)

    for kind, number in trouble:
        if kind == "heal":
            fleet.dead, fleet.failing, fleet.stuck = set(), set(), set()
        elif kind in ("pause", "resume"):
            try:
                fleet.job = (pause if kind == "pause" else resume)(fleet.job, fleet.now_ms)
            except NotNow:
                continue
        else:
            getattr(fleet, kind).add(names[number % len(names)])
        for _ in range(number):
            fleet.tick()
            check()
    fleet.dead, fleet.failing, fleet.stuck = set(), set(), set()
    for _ in range(30 * len(names) + 100):
        if fleet.job.state in ("paused", "stopped"):
            fleet.job = resume(fleet.job, fleet.now_ms)
        fleet.tick()
        check()
    assert fleet.job.state == "done"
