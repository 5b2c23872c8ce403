"""The contract of `skerry.ports.nodetasks`, as tests. Subclass it and give it a `harness` fixture."""

from typing import Protocol

from skerry.core.types.maintenance import REBOOT
from skerry.ports.nodetasks import NodeTasks


class NodeTasksHarness(Protocol):
    """`tasks` knows `good`, which says "all well" and is done, and `bad`, which fails; and a reboot, counted in `reboots`."""

    @property
    def reboots(self) -> int: ...

    def open(self) -> NodeTasks:
        """The tasks of an agent that has just started: each call is another life."""
        ...


class NodeTasksContract:
    def test_names_are_in_order(self, harness: NodeTasksHarness) -> None:
        assert harness.open().allowed == ("bad", "good", REBOOT)

    async def test_a_task_is_done_or_fails_and_says_so(self, harness: NodeTasksHarness) -> None:
        tasks = harness.open()
        good, bad = await tasks.run("good"), await tasks.run("bad")
        assert (good.done, bad.done) == (True, False)
        assert bad.detail

    async def test_an_unknown_name_is_a_failure_and_nothing_else(self, harness: NodeTasksHarness) -> None:
        for name in ("unknown", "", "../bin/sh", "sh -c true"):
            end = await harness.open().run(name)
            assert not end.done
            assert "not among what this node may do" in end.detail

    async def test_a_reboot_ends_a_life_and_other_tasks_do_not(self, harness: NodeTasksHarness) -> None:
        before = harness.open()
        assert before.life("good") == before.life("unknown") == ""
        life = before.life(REBOOT)
        assert life == before.life(REBOOT) != ""
        assert (await before.run(REBOOT)).done
        assert harness.reboots == 1
        assert harness.open().life(REBOOT) not in ("", life)
