"""Processes that outlive their plane: found again, ended, never confused with others."""

import asyncio
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import msgspec
import pytest

from skerry.adapters.process import detached
from skerry.adapters.process.detached import Spawn, attach, spawn
from skerry.kit.record import decode, encode
from skerry.testing.waiting import eventually


@pytest.fixture
def records(tmp_path: Path) -> Path:
    path = tmp_path / "records"
    path.mkdir()
    return path


@pytest.fixture
def tag() -> str:
    return uuid.uuid4().hex


async def test_runs_with_its_fds_stdin_environment_and_log(records: Path, tmp_path: Path, tag: str) -> None:
    read_end, write_end = os.pipe()
    log = tmp_path / "log"
    script = 'cat; echo "$X" >&2; echo through >&3; echo /proc/$$/fd/*'
    process = spawn(
        Spawn(
            name="a", argv=("/bin/sh", "-c", script), env={"X": "y"}, fds=(write_end,), stdin=b"content\n", log=str(log), tag=tag
        ),
        records=records,
    )
    assert await process.wait() == 0
    assert os.read(read_end, 100) == b"through\n"
    lines = log.read_text().split("\n")
    assert lines[:2] == ["content", "y"]
    assert [path.rpartition("/")[2] for path in lines[2].split()] == ["0", "1", "2", "3", "4"]  # 4: the listing itself
    assert (records / "a.json").stat().st_mode & 0o777 == 0o600
    process.forget()
    assert detached.names(records) == ()
    os.close(read_end)
    os.close(write_end)


async def test_a_large_stdin_arrives_whole(records: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = spawn(Spawn(name="a", argv=("/usr/bin/wc", "-c"), stdin=b"x" * 5_000_000, log=str(log)), records=records)
    assert await asyncio.wait_for(process.wait(), 20) == 0
    assert log.read_text() == "5000000\n"
    process.forget()


async def test_signal_and_exit_status(records: Path) -> None:
    process = spawn(Spawn(name="a", argv=("/bin/sleep", "600")), records=records)
    assert process.alive()
    assert process.signal(signal.SIGKILL)
    assert await process.wait() == -signal.SIGKILL
    assert not process.alive()
    assert not process.signal(signal.SIGKILL)
    process.forget()


async def test_stop_kills_what_ignores_sigterm(records: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = spawn(
        Spawn(
            name="a", argv=("/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 60; done"), log=str(log), tag="t" * 9
        ),
        records=records,
    )
    await eventually(log.read_text)
    await process.stop(grace_ms=50)
    assert process.exit_status == -signal.SIGKILL
    assert detached.names(records) == ()
    await detached.kill_tagged("t" * 9)  # its sleep


PLANE = """
import asyncio, os, pathlib, signal, sys
from skerry.adapters.process import detached
records, tag, dies_early = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "early"
if dies_early:
    detached.write_private = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
process = detached.spawn(detached.Spawn(name="a", argv=("/bin/sleep", "600"), tag=tag, note={"k": "v"}), records=records)
print(process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def run_plane_until_it_is_killed(*args: str) -> str:
    plane = subprocess.run([sys.executable, "-c", PLANE, *args], stdout=subprocess.PIPE, text=True, check=False)
    assert plane.returncode == -signal.SIGKILL
    return plane.stdout


async def test_found_again_by_another_plane(records: Path, tag: str) -> None:
    pid = int(run_plane_until_it_is_killed(str(records), tag, "late"))
    process = attach("a", records=records)
    assert process is not None
    assert process.pid == pid
    assert process.record.note == {"k": "v"}
    waiter = asyncio.create_task(process.wait())
    process.signal(signal.SIGTERM)
    assert await asyncio.wait_for(waiter, 10) is None  # not our child: no status, but the event
    process.close()
    assert attach("a", records=records) is None
    assert detached.names(records) == ()


async def test_a_pid_used_again_is_never_hit(records: Path) -> None:
    process = spawn(Spawn(name="a", argv=("/bin/sleep", "600")), records=records)
    path = records / "a.json"
    record = decode(path.read_bytes(), detached.ProcessRecord)
    for wrong in ({"start_ticks": record.start_ticks + 1}, {"boot": "another"}):
        path.write_bytes(encode(msgspec.structs.replace(record, **wrong)))
        assert attach("a", records=records) is None
    assert process.alive()
    await process.stop(grace_ms=1000)


async def test_a_plane_killed_before_the_record_leaves_no_process(records: Path, tag: str) -> None:
    run_plane_until_it_is_killed(str(records), tag, "early")
    await eventually(lambda: not detached.find_tagged(tag))


async def test_orphans_are_found_by_their_tag(records: Path, tag: str) -> None:
    process = spawn(Spawn(name="a", argv=("/bin/sh", "-c", "sleep 600 & sleep 600 & wait"), tag=tag), records=records)
    await eventually(lambda: len(detached.find_tagged(tag)) == 3)
    assert await detached.kill_tagged(tag) == 3
    assert not process.alive()
    process.forget()


async def test_a_log_is_bounded_and_never_kills(records: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = "i=0; while [ $i -lt 3000 ]; do echo 'line of some length for the log' || :; i=$((i+1)); done; exit 7"
    process = spawn(Spawn(name="a", argv=("/bin/sh", "-c", script), log=str(log), log_bytes_max=16384), records=records)
    assert await process.wait() == 7
    assert log.stat().st_size <= 2 * 16384
    detached.trim_log(log, bytes_max=16384)
    assert log.stat().st_size == 0
    assert "line of some length" in detached.read_log_tail(tmp_path / "log.1")
    process.forget()
