"""Control groups on trees of plain files: what is written where, by either backend.

The kernel's own v1 hierarchies are exercised by the tests of the worker runtime.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from skerry.adapters.cgroup.base import CgroupError, DiskLimits, Limits, Usage, disk_of
from skerry.adapters.cgroup.probe import end_group, find_tree
from skerry.adapters.cgroup.v1 import V1Tree
from skerry.adapters.cgroup.v2 import V2Group, V2Tree

LIMITS = Limits(memory_bytes=64 << 20, cpu_millicores=250, cpu_shares=100, pids=32)
V2_FILES = {
    "cgroup.procs": "", "cgroup.kill": "", "cgroup.freeze": "0", "cgroup.subtree_control": "", "cgroup.events": "populated 0\n",
    "memory.max": "max", "memory.swap.max": "max", "memory.current": "4096000", "memory.reclaim": "",
    "memory.events": "low 0\noom 1\noom_kill 3\n", "cpu.max": "max 100000", "cpu.weight": "100",
    "cpu.idle": "0", "cpu.stat": "usage_usec 1234\nuser_usec 1000\n", "pids.max": "max", "io.max": "",
}  # fmt: skip


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    """A unified hierarchy with all controllers, as the kernel shows it."""
    path = tmp_path / "unified"
    path.mkdir()
    (path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    (path / "cgroup.subtree_control").write_text("")
    return path


def populate(path: Path, **changed: str) -> None:
    """What mkdir does in a real hierarchy."""
    for name, content in {**V2_FILES, **changed}.items():
        (path / name).write_text(content)


def group(mount: Path) -> V2Group:
    made = V2Tree(mount, "skerry-x").create("a")
    populate(made.path)
    return made


def test_v2_hands_controllers_down(mount: Path) -> None:
    V2Tree(mount, "skerry-x").create("a")
    assert (mount / "cgroup.subtree_control").read_text() == "+memory +cpu +pids +io"


def test_v2_limits(mount: Path) -> None:
    made = group(mount)
    made.limit(LIMITS)
    read = {name: (made.path / name).read_text() for name in ("memory.max", "cpu.max", "pids.max")}
    assert read["memory.max"].startswith(str(64 << 20))
    assert read["cpu.max"].startswith("25000 100000")
    assert read["pids.max"].startswith("32")
    assert made.join == (str(made.path / "cgroup.procs"),)


def test_v2_ends_whom_its_quota_would_leave_no_time_to_end_in(mount: Path) -> None:
    made = group(mount)
    (made.path / "cpu.max").write_text("")
    made.kill()
    assert (made.path / "cpu.max").read_text() == "max 100000"


@pytest.mark.parametrize(("shares", "weight"), [(1024, "100"), (16_384, "1600"), (2, "1"), (1 << 20, "10000")])
def test_v2_shares_are_weights(mount: Path, shares: int, weight: str) -> None:
    made = group(mount)
    (made.path / "cpu.weight").write_text("")
    made.limit(Limits(cpu_shares=shares))
    assert (made.path / "cpu.weight").read_text() == weight


DISK = DiskLimits(device="254:0", read_bytes_per_s=1000, write_bytes_per_s=2000, read_ops_per_s=30, write_ops_per_s=40)


def test_each_hierarchy_limits_a_disk_in_its_own_words(mount: Path, tmp_path: Path) -> None:
    made = group(mount)
    made.limit(Limits(disk=DISK))
    assert (made.path / "io.max").read_text() == "254:0 rbps=1000 riops=30 wbps=2000 wiops=40"
    old = V1Tree({"blkio": tmp_path}, "skerry-x").create("a")
    names = [f"blkio.throttle.{name}_device" for name in ("read_bps", "write_bps", "read_iops", "write_iops")]
    for name in names:
        (tmp_path / "skerry-x.a" / name).write_text("")
    old.limit(Limits(disk=DISK))
    assert [(tmp_path / "skerry-x.a" / name).read_text() for name in names] == [
        "254:0 1000",
        "254:0 2000",
        "254:0 30",
        "254:0 40",
    ]


def test_a_partition_is_limited_as_the_disk_that_it_is_on(tmp_path: Path) -> None:
    """The kernel takes whole disks alone."""
    number = tmp_path.stat().st_dev
    whole, devices = tmp_path / "block/sda", tmp_path / "dev"
    (whole / "sda1").mkdir(parents=True)
    devices.mkdir()
    (whole / "dev").write_text("8:0\n")
    name = f"{os.major(number)}:{os.minor(number)}"
    assert disk_of(tmp_path, devices=devices) is None
    (devices / name).symlink_to(whole)
    assert disk_of(tmp_path, devices=devices) == "8:0"
    (devices / name).unlink()
    (whole / "sda1/partition").write_text("1\n")
    (devices / name).symlink_to(whole / "sda1")
    assert disk_of(tmp_path, devices=devices) == "8:0"


def test_v2_who_yields_is_idle_and_has_no_weight(mount: Path) -> None:
    made = group(mount)
    made.limit(Limits(cpu_shares=2048, cpu_standing="last"))
    assert ((made.path / "cpu.idle").read_text(), (made.path / "cpu.weight").read_text()) == ("1", "100")
    made.limit(Limits(cpu_shares=2048))
    assert ((made.path / "cpu.idle").read_text(), (made.path / "cpu.weight").read_text()) == ("0", "200")


def test_v2_who_comes_later_keeps_a_part_of_its_weight(mount: Path) -> None:
    made = group(mount)
    made.limit(Limits(cpu_shares=4096, cpu_standing="later"))
    assert [(made.path / name).read_text()[:2] for name in ("cpu.idle", "cpu.weight")] == ["0", "25"]
    made.limit(Limits(cpu_shares=2, cpu_standing="later"))
    assert (made.path / "cpu.weight").read_text()[:1] == "1"


def test_before_there_were_idle_groups_who_yields_has_the_least_weight(mount: Path, tmp_path: Path) -> None:
    made = group(mount)
    (made.path / "cpu.idle").unlink()
    (made.path / "cpu.weight").write_text("")
    made.limit(Limits(cpu_standing="last"))
    assert (made.path / "cpu.weight").read_text() == "1"
    old = V1Tree(hierarchies(tmp_path, unified=False), "skerry-x").create("b")
    for path in (Path(file).parent for file in old.join):
        for name in ("memory.limit_in_bytes", "cpu.cfs_period_us", "cpu.cfs_quota_us", "cpu.shares", "pids.max"):
            (path / name).write_text("")
    old.limit(Limits(cpu_standing="last"))
    assert (tmp_path / "cpu,cpuacct/skerry-x.b/cpu.shares").read_text() == "2"


def test_v2_swap_only_while_squeezed(mount: Path) -> None:
    made = group(mount)
    made.allow_swap(False)
    assert (made.path / "memory.swap.max").read_text().startswith("0")
    made.squeeze()
    assert (made.path / "memory.reclaim").read_text() == "4096000"


def test_v2_usage(mount: Path) -> None:
    assert group(mount).usage() == Usage(memory_bytes=4096000, cpu_us=1234, oom_kills=3)


def test_v2_kill(mount: Path) -> None:
    made = group(mount)
    made.limit(Limits(cpu_standing="last"))
    made.kill()
    assert (made.path / "cgroup.kill").read_text() == "1"
    assert (made.path / "cpu.idle").read_text() == "0"  # who yields to others would take long to die


async def test_v2_names_and_removal(mount: Path) -> None:
    tree = V2Tree(mount, "skerry-x")
    assert tree.names() == ()
    tree.create("b")
    tree.create("a")
    assert tree.names() == ("a", "b")
    await end_group(tree, "a")
    await end_group(tree, "a")
    await end_group(tree, "b")
    assert tree.remove()
    assert tree.remove()


def test_v2_without_controllers_limits_nothing(mount: Path) -> None:
    """The bare tree beside v1, or a container that was given no controllers."""
    (mount / "cgroup.controllers").write_text("hugetlb\n")
    tree = V2Tree(mount, "skerry-x")
    assert not tree.limits
    assert not tree.squeezes
    tree.create("a").limit(LIMITS)  # nothing to write to, nothing to fail


def hierarchies(tmp_path: Path, *, unified: bool) -> dict[str, Path]:
    names = ("memory", "cpu", "cpuacct", "pids", "freezer", *(("unified",) if unified else ()))
    mounts = {name: tmp_path / ("cpu,cpuacct" if name in ("cpu", "cpuacct") else name) for name in names}
    for path in mounts.values():
        path.mkdir(exist_ok=True)
    return mounts


def test_v1_writes_each_limit_to_its_hierarchy(tmp_path: Path) -> None:
    tree = V1Tree(hierarchies(tmp_path, unified=True), "skerry-x")
    made = tree.create("a")
    (tmp_path / "memory/skerry-x.a/memory.limit_in_bytes").write_text("")
    for name in ("cpu.cfs_period_us", "cpu.cfs_quota_us", "cpu.shares"):
        (tmp_path / "cpu,cpuacct/skerry-x.a" / name).write_text("")
    (tmp_path / "pids/skerry-x.a/pids.max").write_text("")
    made.limit(LIMITS)
    assert (tmp_path / "memory/skerry-x.a/memory.limit_in_bytes").read_text() == str(64 << 20)
    assert (tmp_path / "cpu,cpuacct/skerry-x.a/cpu.cfs_quota_us").read_text() == "25000"
    assert (tmp_path / "cpu,cpuacct/skerry-x.a/cpu.shares").read_text() == "100"
    assert len(made.join) == 5  # cpu and cpuacct are mounted together
    assert tree.names() == ("a",)


def test_v1_a_refused_limit_names_its_file(tmp_path: Path) -> None:
    made = V1Tree(hierarchies(tmp_path, unified=False), "skerry-x").create("a")
    with pytest.raises(CgroupError, match=r"memory\.limit_in_bytes"):
        made.limit(LIMITS)


def test_probe_chooses_by_what_is_mounted(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    for name in ("memory", "cpu", "unified"):
        (tmp_path / name).mkdir()
    (tmp_path / "unified/cgroup.controllers").write_text("cpu memory pids\n")
    mounts.write_text(f"cgroup2 {tmp_path}/unified cgroup2 rw 0 0\n")
    assert isinstance(find_tree("skerry-x", mounts=mounts)[0], V2Tree)
    lines = [f"cgroup {tmp_path}/{name} cgroup rw,{name} 0 0\n" for name in ("memory", "cpu")]
    mounts.write_text("".join(lines) + mounts.read_text())
    assert isinstance(find_tree("skerry-x", mounts=mounts)[0], V1Tree)
    mounts.write_text("proc /proc proc rw 0 0\n")
    assert find_tree("skerry-x", mounts=mounts) == (None, "no control groups are mounted")


def test_probe_says_what_is_not_writable() -> None:
    with tempfile.TemporaryDirectory(prefix="skerry-") as name:
        place = Path(name)
        place.chmod(0o755)
        (place / "unified").mkdir(mode=0o500)
        (place / "mounts").write_text(f"cgroup2 {place}/unified cgroup2 rw 0 0\n")
        said = as_ordinary_user(lambda: repr(find_tree("skerry-x", mounts=place / "mounts")))
    assert said.startswith("(None, ")
    assert "need root" in said


def as_ordinary_user(work: Callable[[], str]) -> str:
    """What `work` says; root, who may write everywhere, asks it in a child that is nobody."""
    if os.geteuid() != 0:
        return work()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            os.write(writing, work().encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        said = answer.read().decode()
    os.waitpid(child, 0)
    return said


def test_groups_within_a_group_are_part_of_it(mount: Path) -> None:
    made = group(mount)
    inner = made.path / "c"
    inner.mkdir()
    (made.path / "cgroup.procs").write_text("7\n")
    (inner / "cgroup.procs").write_text("8\n9\n")
    assert made.pids() == (7, 8, 9)


def test_v2_freezes(mount: Path) -> None:
    made = group(mount)
    made.freeze(True)
    assert (made.path / "cgroup.freeze").read_text() == "1"
    made.freeze(False)
    assert (made.path / "cgroup.freeze").read_text() == "0"


def test_v2_counts_what_is_read_and_written(mount: Path) -> None:
    made = group(mount)
    (made.path / "io.stat").write_text("254:0 rbytes=100 wbytes=20 rios=1\n254:16 rbytes=5 wbytes=0 rios=1\n")
    (made.path / "memory.stat").write_text("anon 1000\nfile 5000\nshmem 24\n")
    (made.path / "pids.current").write_text("3\n")
    usage = made.usage()
    assert (usage.read_bytes, usage.written_bytes, usage.private_bytes, usage.pids) == (105, 20, 1024, 3)
