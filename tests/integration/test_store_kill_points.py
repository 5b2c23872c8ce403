"""A process that is to die between two steps dies exactly there."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from skerry.adapters.store.sqlite import SqliteStore
from skerry.testing.faults import KillPoint

VICTIM = """
import sys, anyio, pathlib
from skerry.adapters.store.sqlite import SqliteStore
from skerry.ports.store import Check, Conflict, Delete, Put
from skerry.testing.faults import KillAfterCommits, KillPoint
async def main():
    store = KillAfterCommits(await SqliteStore.open(pathlib.Path(sys.argv[1])), KillPoint.parse(sys.argv[2]))
    await store.transact([], [])  # no ops: no commit
    print(await store.put("1", b""), flush=True)
    try:
        await store.compare_and_set("1", b"", revision=0)  # refused: no commit
    except Conflict:
        pass
    print(await store.compare_and_set("2", b"", revision=0), flush=True)
    print(await store.transact([Check(key="2", revision=2)], [Put(key="3", value=b""), Delete(key="1")]), flush=True)
    await store.aclose()
anyio.run(main)
"""


def _run(path: Path, point: str) -> tuple[int, list[str]]:
    """The victim's exit status, and the revisions it was told."""
    arguments = [sys.executable, "-c", VICTIM, str(path), point]
    victim = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=False)
    return victim.returncode, victim.stdout.split()


@pytest.mark.parametrize(
    ("point", "told", "kept"),
    [
        ("before:1", [], []),
        ("after:1", [], ["1"]),
        ("after:2", ["1"], ["1", "2"]),
        ("before:3", ["1", "2"], ["1", "2"]),
        ("after:3", ["1", "2"], ["2", "3"]),
        ("after:4", ["1", "2", "3"], ["2", "3"]),
    ],
)
async def test_it_dies_at_its_point(tmp_path: Path, point: str, told: list[str], kept: list[str]) -> None:
    path = tmp_path / "store.db"
    assert _run(path, point) == (-signal.SIGKILL if len(told) < 3 else 0, told)
    store = await SqliteStore.open(path)
    assert [entry.key for entry in (await store.range("")).entries] == kept
    await store.aclose()


def test_before_the_second_commit_a_refused_write_is_asked_for_too(tmp_path: Path) -> None:
    """It cannot be known to be refused before it happens."""
    assert _run(tmp_path / "store.db", "before:2") == (-signal.SIGKILL, ["1"])


@pytest.mark.parametrize("text", ["", "before", "before:0", "after:-1", "during:1", "after:x"])
def test_what_is_no_point_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        KillPoint.parse(text)


def test_a_point_is_read_as_it_is_written() -> None:
    point = KillPoint(side="after", commit=12)
    assert KillPoint.parse(str(point)) == point
