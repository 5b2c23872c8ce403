"""The directory of blobs: what a kill leaves, who may read it, what happens beside it."""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from skerry.adapters.blobs.directory import DirectoryBlobs
from skerry.core.types.ids import Digest
from skerry.ports.blobs import Unavailable

WRITER = """
import os, sys, anyio, pathlib
from skerry.adapters.blobs.directory import DirectoryBlobs
async def main():
    blobs = await DirectoryBlobs.open(pathlib.Path(sys.argv[1]))
    async def write(task):
        for number in range(100_000):
            os.write(1, (await blobs.put(os.urandom(200_000)) + "\\n").encode())
    async with anyio.create_task_group() as group:
        for task in range(4):
            group.start_soon(write, task)
anyio.run(main)
"""


def _names(root: Path) -> list[Digest]:
    return [Digest(path.name) for path in root.glob("??/*")]


def _temporaries(root: Path) -> list[Path]:
    return list((root / "tmp").iterdir())


def _killed_writer(root: Path, *, lines: int) -> list[Digest]:
    """Let a process put blobs, kill it after `lines` acknowledgements; all that it acknowledged."""
    with subprocess.Popen([sys.executable, "-c", WRITER, str(root)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        seen = [writer.stdout.readline() for _ in range(lines)]
        os.kill(writer.pid, signal.SIGKILL)
        return [Digest(line.strip()) for line in seen + writer.stdout.readlines()]


async def test_acknowledged_blobs_survive_kill_9_and_halves_are_removed(tmp_path: Path) -> None:
    acknowledged: list[Digest] = []
    for round_ in range(6):
        acknowledged += _killed_writer(tmp_path, lines=3 + 5 * round_)
        await DirectoryBlobs.open(tmp_path)
        assert _temporaries(tmp_path) == []
    blobs = await DirectoryBlobs.open(tmp_path)
    for digest in acknowledged:
        assert len(await blobs.get(digest)) == 200_000
    for name in _names(tmp_path):
        await blobs.get(name)  # what has its name is whole, acknowledged or not


async def test_what_a_living_process_is_writing_is_left_alone(tmp_path: Path) -> None:
    await DirectoryBlobs.open(tmp_path)
    living, dead = tmp_path / "tmp" / "living", tmp_path / "tmp" / "dead"
    dead.write_bytes(b"half")
    with living.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        await DirectoryBlobs.open(tmp_path)
        assert _temporaries(tmp_path) == [living]
    await DirectoryBlobs.open(tmp_path)
    assert _temporaries(tmp_path) == []


async def test_only_the_owner_reads_blobs(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        blobs = await DirectoryBlobs.open(tmp_path / "blobs")
        digest = await blobs.put(b"secret")
    finally:
        os.umask(before)
    file = tmp_path / "blobs" / digest[:2] / digest
    assert file.stat().st_mode & 0o777 == 0o600
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "blobs", file.parent, tmp_path / "blobs" / "tmp")} == {0o700}


async def test_a_truncated_blob_is_healed_by_putting_it_again(tmp_path: Path) -> None:
    blobs = await DirectoryBlobs.open(tmp_path)
    digest = await blobs.put(b"some bytes")
    os.truncate(tmp_path / digest[:2] / digest, 4)
    await blobs.put(b"some bytes")
    assert await blobs.get(digest) == b"some bytes"


async def test_a_root_that_cannot_be_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unavailable):
        await DirectoryBlobs.open(tmp_path / "file")


async def test_a_root_that_went_away_is_unavailable(tmp_path: Path) -> None:
    blobs = await DirectoryBlobs.open(tmp_path / "blobs")
    (tmp_path / "blobs").rename(tmp_path / "moved")
    with pytest.raises(Unavailable):
        await blobs.put(b"a")
