"""What a store acknowledged survives the death of its process, at any moment."""

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from skerry.adapters.store.sqlite import SqliteStore
from skerry.ports.store import Entry
from skerry.testing.contracts.store import take

PROGRAMS = Path(__file__).parent / "programs"
WRITER = str(PROGRAMS / "store_writer.py")
KEYS = 3  # of one transaction of the writer
SYSTEM_CALLS = "pwrite64,fdatasync,ftruncate,unlink"  # by which SQLite changes the disk

Values = dict[int, tuple[int, int]]
"""By group of the writer, the revision and the value of its keys."""

strace = shutil.which("strace")
needs_strace = pytest.mark.skipif(strace is None, reason="strace is not installed")


def _killed_by_parent(path: Path, *, groups: int, lines: int) -> list[str]:
    """Start the writer and kill it once `lines` lines have come; all the lines it managed to write."""
    arguments = [sys.executable, WRITER, str(path), str(groups), "1000000"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        try:
            seen = [writer.stdout.readline() for _ in range(lines)]
        finally:
            os.kill(writer.pid, signal.SIGKILL)
        return [line.rstrip("\n") for line in seen + writer.stdout.readlines()]


def _under_strace(path: Path, inject: str, *, groups: int, turns: int) -> tuple[int, list[str]]:
    """Run the writer with a fault in one of its system calls: the exit status and the lines."""
    assert strace is not None
    arguments = [strace, "-f", "-qq", "-o", os.devnull, "-e", f"inject={inject}", sys.executable, WRITER, str(path)]
    done = subprocess.run([*arguments, str(groups), str(turns)], stdout=subprocess.PIPE, text=True, check=False)
    return done.returncode, done.stdout.splitlines()


def _acknowledged(lines: list[str]) -> Values:
    last: Values = {}
    for line in lines:
        if line.startswith("ack "):
            revision, group, value = (int(word) for word in line.split()[1:])
            last[group] = (revision, value)
    return last


def _make(path: Path) -> Values:
    """A store that was used and closed."""
    made = subprocess.run([sys.executable, WRITER, str(path), "2", "2"], stdout=subprocess.PIPE, text=True, check=True)
    return _acknowledged(made.stdout.splitlines())


async def _check(path: Path, acknowledged: Values, *, in_flight: int = 1) -> Values:
    """Every acknowledged write is there, transactions are whole, history agrees; what is there, by group."""
    store = await SqliteStore.open(path, history_transactions_max=100)
    try:
        page = await store.range("group/")
        by_group: dict[int, set[tuple[int, int]]] = {}
        for entry in page.entries:
            by_group.setdefault(int(entry.key.split("/")[1]), set()).add((entry.revision, int(entry.value)))
        assert len(page.entries) == KEYS * len(by_group)
        assert all(len(found) == 1 for found in by_group.values()), "transactions are whole"
        values = {group: found.pop() for group, found in by_group.items()}
        for group, (revision, value) in acknowledged.items():
            assert values[group] == (revision, value) or (
                values[group][0] > revision and value < values[group][1] <= value + in_flight
            )
        if page.revision:
            (last,) = await take(store, "", after=page.revision - 1, count=1)
            assert [await store.get(change.key) for change in last] == [
                Entry(key=change.key, value=change.value or b"", revision=page.revision) for change in last
            ]
        await store.put("goes-on", b"")
        return values
    finally:
        await store.aclose()


async def test_acknowledged_writes_survive_kill_9(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    path = tmp_path / "store.db"
    values: Values = {}
    for _ in range(8):
        lines = _killed_by_parent(path, groups=dice.choice([1, 8, 32]), lines=dice.randrange(1, 400))
        values = await _check(path, values | _acknowledged(lines))


@needs_strace
@pytest.mark.parametrize(
    ("made_before", "call"), [(False, call) for call in range(1, 36, 3)] + [(True, call) for call in range(8, 50, 3)]
)
async def test_killed_at_each_step_of_the_engine(tmp_path: Path, made_before: bool, call: int) -> None:
    """The creation of the file, the first commits, and the checkpoint at the end (strace counts by thread)."""
    path = tmp_path / "store.db"
    values = _make(path) if made_before else {}
    status, lines = _under_strace(path, f"{SYSTEM_CALLS}:signal=KILL:when={call}", groups=2, turns=3)
    assert status == (0 if "done" in lines else -signal.SIGKILL)
    await _check(path, values | _acknowledged(lines))


@needs_strace
async def test_after_a_failed_fsync_nothing_is_answered_until_it_is_reopened(tmp_path: Path) -> None:
    """The disk may or may not hold that commit; nobody may read it as absent and find it later."""
    refused = 0
    for call in range(1, 7):
        path = tmp_path / f"{call}.db"
        values = _make(path)
        _, lines = _under_strace(path, f"fdatasync:error=EIO:when={call}", groups=1, turns=3)
        failures = [line for line in lines if line.startswith("unavailable")]
        assert all(line.endswith(" refused") for line in failures)
        refused += len(failures)
        await _check(path, values | _acknowledged(lines))
    assert refused


@needs_strace
async def test_a_write_that_finds_the_disk_full_is_refused_whole(tmp_path: Path) -> None:
    refused = 0
    for call in range(10, 30, 2):
        path = tmp_path / f"{call}.db"
        values = _make(path)
        _, lines = _under_strace(path, f"pwrite64:error=ENOSPC:when={call}", groups=1, turns=3)
        values |= _acknowledged(lines)
        for line in lines:
            if line.startswith("unavailable"):
                _, group, value, found = line.split()
                assert int(found) == int(value) - 1 == values[int(group)][1]
                refused += 1
        await _check(path, values, in_flight=0)
    assert refused


@pytest.mark.parametrize("kind", ["limit", "disk"])
def test_a_full_disk_is_unavailable_and_then_all_goes_on(tmp_path: Path, kind: str) -> None:
    program = [sys.executable, str(PROGRAMS / "store_full.py"), kind, str(tmp_path)]
    if kind == "disk":
        if os.geteuid() != 0 or shutil.which("unshare") is None:
            pytest.skip("a file system of its own needs root and unshare")
        mount = 'mount -t tmpfs -o size=8m,mode=700 tmpfs "$1" && shift && exec "$@"'  # gone with the process
        program = ["unshare", "-m", "--propagation", "private", "sh", "-c", mount, "sh", str(tmp_path), *program]
    done = subprocess.run(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "well"
