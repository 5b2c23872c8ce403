"""What every tree of control groups has to do, on the kernel's own hierarchies: `CHECKS`, each of which takes a tree.

Without pytest and any other package, since they also run as the only program of a guest (see `skerry.testing.groups_guest`).
Each leaves nothing behind when it holds.
"""

import contextlib
import errno
import mmap
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Generator
from pathlib import Path

from skerry.adapters.cgroup.base import DiskLimits, Group, Limits, Tree
from skerry.adapters.cgroup.slices import LONG_NS, SHORT_NS, slice_ns
from skerry.core.types.usage import Standing

DEADLINE_S = 20
MIB = 1 << 20
PIDS_MAX = 8


def memory_is_limited(tree: Tree) -> None:
    with made(tree, "memory", Limits(memory_bytes=32 * MIB)) as group:
        group.allow_swap(False)
        event = group.oom_event()
        child = born(group, lambda: bytearray(os.urandom(1)) * (128 * MIB))
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), status
        assert os.WTERMSIG(status) == signal.SIGKILL
        if event is None:
            assert group.usage().oom_kills == 1
        else:
            assert os.read(event, 8)
            os.close(event)


def processes_are_limited(tree: Tree) -> None:
    def fork_many() -> None:
        for _ in range(2 * PIDS_MAX):
            try:
                child = os.fork()
            except OSError as error:
                os._exit(0 if error.errno == errno.EAGAIN else 1)
            if child == 0:
                signal.pause()
        os._exit(1)

    with made(tree, "pids", Limits(pids=PIDS_MAX)) as group:
        assert group.usage().forks_refused == 0
        _, status = os.waitpid(born(group, fork_many), 0)
        assert status == 0
        assert group.usage().forks_refused > 0


def the_quota_holds_a_process_back(tree: Tree) -> None:
    with made(tree, "quota", Limits(cpu_millicores=50)) as group, running(group, spin):
        until(lambda: group.usage().throttled_us > 0)
        used_us = group.usage().cpu_us
        assert group.cpu_us() >= used_us > 0


def who_yields_runs_when_nobody_else_does(tree: Tree) -> None:
    """Both on one CPU, whatever else it does."""
    with made(tree, "first") as first, made(tree, "second") as second, running(second, spin), running(first, spin):
        until(lambda: min(first.usage().cpu_us, second.usage().cpu_us) > 10_000)  # as equals, both run
        second.limit(Limits(cpu_standing="last"))
        before = first.usage().cpu_us, second.usage().cpu_us
        until(lambda: first.usage().cpu_us > before[0] + 400_000)
        assert second.usage().cpu_us - before[1] < 200_000
        second.limit(Limits())
        again_us = second.usage().cpu_us
        until(lambda: second.usage().cpu_us > again_us + 100_000, within_s=DEADLINE_S * 6)  # before 6.6, it first pays its debts


def two_who_yield_share_what_is_left_and_come_back(tree: Tree) -> None:
    """They go on all the same, each with its part; what they use is counted, and they come back."""
    yields = Limits(cpu_standing="last")
    with made(tree, "one") as one, made(tree, "two") as two, running(one, spin), running(two, spin):
        until(lambda: min(one.usage().cpu_us, two.usage().cpu_us) > 10_000)
        for group in (one, two):
            group.limit(yields)
        assert tree.names() == ("one", "two")
        before = one.usage().cpu_us, two.usage().cpu_us
        until(lambda: min(one.usage().cpu_us - before[0], two.usage().cpu_us - before[1]) > 10_000, within_s=DEADLINE_S * 6)
        for group in (one, two):
            assert len(group.pids()) == 1
            group.limit(Limits())
        before = one.usage().cpu_us, two.usage().cpu_us
        until(lambda: min(one.usage().cpu_us - before[0], two.usage().cpu_us - before[1]) > 10_000)
    assert tree.names() == ()


def who_does_not_come_first_has_slices_of_its_own_while_it_does(tree: Tree) -> None:
    """In all threads, where the kernel has slices."""

    def two_threads() -> None:
        threading.Thread(target=signal.pause, daemon=True).start()
        signal.pause()

    with made(tree, "later") as group, running(group, two_threads) as child:
        until(lambda: len(threads_of(child)) == 2)
        threads = threads_of(child)
        usual = {slice_ns(thread) for thread in threads}
        later, last = ({LONG_NS}, usual) if tree.gathers else ({SHORT_NS}, {SHORT_NS})
        standings: tuple[tuple[Standing, object], ...] = (("later", later), ("last", last), ("first", usual))
        for standing, slices in standings:
            group.limit(Limits(cpu_standing=standing))
            assert {slice_ns(thread) for thread in threads} == slices or usual == {0}


def weights_divide_a_cpu(tree: Tree) -> None:
    one, eight = Limits(cpu_shares=1024), Limits(cpu_shares=8192)
    with made(tree, "light", one) as light, made(tree, "heavy", eight) as heavy, running(light, spin), running(heavy, spin):
        until(lambda: min(light.usage().cpu_us, heavy.usage().cpu_us) > 10_000)
        before = light.usage().cpu_us, heavy.usage().cpu_us
        until(lambda: heavy.usage().cpu_us > before[1] + 1_000_000)
        assert light.usage().cpu_us - before[0] < 500_000


def what_is_frozen_stands_still_and_can_be_ended(tree: Tree) -> None:
    with made(tree, "frozen") as group:
        child = born(group, spin)
        until(lambda: group.usage().cpu_us > 1_000)
        group.freeze(True)
        before_us = settled(group)
        assert group.usage().cpu_us == before_us
        group.kill()
        os.waitpid(child, 0)


def a_process_is_counted_with_what_it_starts_and_ended_with_it(tree: Tree) -> None:
    def fork_and_wait() -> None:
        os.fork()
        signal.pause()

    with made(tree, "family") as group:
        child = born(group, fork_and_wait)
        until(lambda: len(group.pids()) == 2)
        assert group.usage().memory_bytes > 0
        assert not group.remove()
        group.kill()
        os.waitpid(child, 0)
        until(lambda: group.pids() == ())


def a_disk_is_read_as_fast_as_allowed(tree: Tree, device: str, path: str) -> None:
    """`path`, of 8 MiB and more, lies on `device` or is it. Never faster, however busy or quick the machine is."""

    def read_all() -> None:
        descriptor, buffer = os.open(path, os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, 64 * 1024)
        while os.readv(descriptor, [buffer]):
            pass
        signal.pause()

    disk = DiskLimits(
        device=device, read_bytes_per_s=4 * MIB, write_bytes_per_s=MIB, read_ops_per_s=10_000, write_ops_per_s=10_000
    )
    with made(tree, "disk", Limits(disk=disk)) as group:
        began = time.monotonic()
        with running(group, read_all):
            until(lambda: group.usage().read_bytes >= 6 * MIB)
        assert time.monotonic() - began >= 1.0  # 1.5 s, and the kernel counts in slices of a tenth


def groups_are_found_by_their_owner_alone(tree: Tree) -> None:
    with made(tree, "a.1"), made(tree, "b"):
        assert tree.names() == ("a.1", "b")
        tree.create("a.1")  # it is there
    assert tree.names() == ()
    assert tree.remove()
    assert tree.open("a.1").remove()


CHECKS: tuple[Callable[[Tree], None], ...] = (
    groups_are_found_by_their_owner_alone,
    a_process_is_counted_with_what_it_starts_and_ended_with_it,
    memory_is_limited,
    processes_are_limited,
    the_quota_holds_a_process_back,
    who_does_not_come_first_has_slices_of_its_own_while_it_does,
    two_who_yield_share_what_is_left_and_come_back,
    weights_divide_a_cpu,
    who_yields_runs_when_nobody_else_does,
    what_is_frozen_stands_still_and_can_be_ended,
)


@contextlib.contextmanager
def made(tree: Tree, name: str, limits: Limits | None = None) -> Generator[Group]:
    """A group, which is empty and removed afterwards."""
    group = tree.create(name)
    try:
        group.limit(limits or Limits())
        yield group
    finally:
        until(lambda: ended(group))


def ended(group: Group) -> bool:
    group.kill()
    return group.remove()


@contextlib.contextmanager
def running(group: Group, work: Callable[[], object]) -> Generator[int]:
    child = born(group, work)
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def born(group: Group, work: Callable[[], object]) -> int:
    """A process of the group on one CPU, always the same one."""
    child = os.fork()
    if child == 0:
        try:
            for file in group.join:
                descriptor = os.open(file, os.O_WRONLY)
                os.write(descriptor, b"0")
                os.close(descriptor)
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
            work()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return child


def threads_of(pid: int) -> list[int]:
    return [int(path.name) for path in Path(f"/proc/{pid}/task").iterdir()]


def spin() -> None:
    while True:
        pass


def settled(group: Group) -> int:
    """CPU time of what is being frozen, once it does not grow."""
    last = -1
    while (now := group.usage().cpu_us) != last:
        last = now
        time.sleep(0.05)
    return last


def until(holds: Callable[[], object], *, within_s: float = DEADLINE_S) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "not true in time"
        time.sleep(0.005)
