"""The life of an instance: every transition, and what is illegal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.core.machines import instance as machine
from skerry.core.machines.instance import Backoff, Life, begin, step
from skerry.core.types.program import RestartPolicy

BACKOFF = Backoff(first_ms=100, factor=2, max_ms=1000, healthy_after_ms=5000)


def play(*events: tuple[int, machine.Event]) -> tuple[Life, tuple[machine.Command, ...]]:
    """The life after events at their times, and the commands of the last."""
    life, commands = begin(0), ()
    for now_ms, event in events:
        life, commands = step(life, event, now_ms, BACKOFF)
    return life, commands


READY, CRASH = machine.Ready(), machine.Exited(reason="killed")


def test_the_way_up() -> None:
    life, commands = play((0, machine.Launched()))
    assert (life.state, commands) == ("starting", (machine.Hold(), machine.Launch()))
    life, commands = play((0, machine.Launched()), (20, READY))
    assert (life.state, life.since_ms, commands) == ("running", 20, ())


def test_an_own_fault_is_final_until_launched_again() -> None:
    life, commands = play((0, machine.Launched()), (9, machine.Exited(reason="boom", own_fault=True)))
    assert (life.state, life.detail, life.restarts, commands) == ("failed", "boom", 0, (machine.Refuse(),))
    life, commands = step(life, machine.Launched(), 10, BACKOFF)
    assert (life.state, commands) == ("starting", (machine.Hold(), machine.Launch()))


def test_the_first_crash_restarts_at_once_the_next_ones_wait() -> None:
    life, commands = play((0, machine.Launched()), (1, READY), (2, CRASH))
    assert (life.state, life.restarts, commands) == ("starting", 1, (machine.Hold(), machine.Launch()))
    delays = []
    for now_ms in range(3, 10):
        life, commands = step(life, CRASH, now_ms, BACKOFF)
        assert life.state == "backoff"
        (refuse, wait) = commands
        assert refuse == machine.Refuse()
        assert isinstance(wait, machine.Wait)
        delays.append(wait.delay_ms)
        life, _ = step(life, machine.Due(), now_ms, BACKOFF)
    assert delays == [100, 200, 400, 800, 1000, 1000, 1000]


def test_a_healthy_run_is_forgiven() -> None:
    crashed, _ = play((0, machine.Launched()), (1, READY), (2, CRASH), (3, READY), (4, CRASH), (5, machine.Due()), (6, READY))
    assert crashed.crashes == 2
    life, commands = step(crashed, CRASH, 6 + 5000, BACKOFF)
    assert (life.state, life.crashes, life.restarts) == ("starting", 1, 3)
    assert machine.Launch() in commands


def test_sleep_and_wake() -> None:
    life, _ = play((0, machine.Launched()), (1, READY), (2, machine.Squeezed()))
    assert life.state == "asleep"
    life, _ = step(life, machine.Activity(), 3, BACKOFF)
    assert life.state == "running"


def test_dropped_and_asked_for_again() -> None:
    life, commands = play((0, machine.Launched()), (1, READY), (2, machine.Dropped(reason="idle")))
    assert (life.state, life.detail, commands) == ("dead", "idle", (machine.End(), machine.Watch()))
    life, commands = step(life, machine.Demand(), 3, BACKOFF)
    assert (life.state, commands) == ("starting", (machine.Hold(), machine.Launch()))


def exit_of(policy: RestartPolicy, code: int | None) -> str:
    life, _ = step(begin(0, policy), machine.Launched(), 0, BACKOFF)
    life, _ = step(life, READY, 1, BACKOFF)
    return step(life, machine.Exited(reason="x", code=code), 2, BACKOFF)[0].state


def test_restart_policies() -> None:
    table = {(policy, code): exit_of(policy, code) for policy in ("always", "on-failure", "never") for code in (0, 1, None)}
    assert table == {
        ("always", 0): "starting", ("always", 1): "starting", ("always", None): "starting",
        ("on-failure", 0): "done", ("on-failure", 1): "starting", ("on-failure", None): "starting",
        ("never", 0): "done", ("never", 1): "failed", ("never", None): "failed",
    }  # fmt: skip


def test_what_lacks_its_files_is_tried_again_whatever_the_policy() -> None:
    life, _ = step(begin(0, "never"), machine.Lacking(reason="away"), 1, BACKOFF)
    assert life.state == "backoff"


def test_paused_and_resumed() -> None:
    life, _ = play((0, machine.Launched()), (1, READY), (2, machine.Paused()))
    assert (life.state, life.ready_ms) == ("paused", 1)
    life, commands = step(life, machine.Dropped(reason="idle"), 3, BACKOFF)
    assert (life.state, commands) == ("paused", ())
    life, _ = step(life, machine.Resumed(), 4, BACKOFF)
    assert (life.state, life.ready_ms) == ("running", 1)
    life, _ = play((0, machine.Launched()), (1, READY), (2, machine.Paused()), (3, CRASH))
    assert life.state == "starting"


def test_what_is_done_can_be_run_again() -> None:
    life, _ = step(Life(state="done", since_ms=0, restart="never"), machine.Launched(), 1, BACKOFF)
    assert life.state == "starting"


def test_what_cannot_be_raises() -> None:
    for state, event in (
        ("dead", READY),
        ("failed", READY),
        ("running", READY),
        ("dead", CRASH),
        ("stopping", machine.Launched()),
    ):
        with pytest.raises(machine.Illegal):
            step(Life(state=state, since_ms=0), event, 1, BACKOFF)


EVENTS = st.sampled_from(
    [
        machine.Launched(), READY, CRASH, machine.Exited(reason="x", own_fault=True), machine.Due(), machine.Squeezed(),
        machine.Activity(), machine.Dropped(reason="x"), machine.Demand(), machine.Stop(), machine.Paused(),
        machine.Resumed(), machine.Exited(reason="x", code=0),
    ]
)  # fmt: skip


@given(st.lists(EVENTS, max_size=40), st.sampled_from(["always", "on-failure", "never"]))
def test_promises_over_any_history(events: list[machine.Event], policy: RestartPolicy) -> None:
    life = begin(0, policy)
    for now_ms, event in enumerate(events):
        before = life
        try:
            life, commands = step(life, event, now_ms, BACKOFF)
        except machine.Illegal:
            continue
        kinds = [type(command) for command in commands]
        assert kinds.count(machine.Launch) == (1 if life.state == "starting" and machine.Hold in kinds else 0)
        assert (machine.Refuse in kinds) == (life.state in ("failed", "backoff", "done") and before.state != life.state)
        assert life.restarts >= before.restarts
        if before.state == "stopping":
            assert life.state == "stopping"
