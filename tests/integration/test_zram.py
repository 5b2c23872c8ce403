"""Swap in compressed memory: made, found again, removed, and never anybody else's."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from skerry.adapters import zram
from skerry.kit.record import decode

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/sys/class/zram-control").is_dir(), reason="needs root and a kernel with zram"
)

SIZE = 64 << 20
KILLED_AT = """
import os, pathlib, signal, sys
from skerry.adapters import zram
def die(*arguments): os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] != "end":
    setattr(zram, sys.argv[2], die)
zram.make_swap(pathlib.Path(sys.argv[1]), size_bytes=64 << 20)
die()
"""


def test_made_used_and_removed(tmp_path: Path) -> None:
    record = tmp_path / "zram.json"
    zram.make_swap(record, size_bytes=SIZE)
    assert zram.usable_swap()
    (mine,) = [device for device in devices() if device in ours(record)]
    assert f"/dev/{mine}" in Path("/proc/swaps").read_text()
    assert record.stat().st_mode & 0o077 == 0
    assert zram.ensure_swap(tmp_path / "other.json") is False  # there is one
    zram.remove_swap(tmp_path / "other.json")
    assert mine in devices()
    zram.remove_swap(record)
    assert mine not in devices()
    assert not record.exists()
    zram.remove_swap(record)


@pytest.mark.parametrize("step", ["_write", "_write_header", "_call", "end"])
def test_what_a_killed_owner_left_is_removed(tmp_path: Path, step: str) -> None:
    record = tmp_path / "zram.json"
    killed = subprocess.run([sys.executable, "-c", KILLED_AT, str(record), step], check=False)
    assert killed.returncode == -signal.SIGKILL
    left = ours(record)
    assert left
    zram.remove_swap(record)
    assert not left & devices()
    assert not record.exists()


def test_a_record_of_another_boot_removes_nothing(tmp_path: Path) -> None:
    record = tmp_path / "zram.json"
    zram.make_swap(record, size_bytes=SIZE)
    old = tmp_path / "old.json"
    old.write_text(record.read_text().replace('"boot":"', '"boot":"x'))
    mine = ours(record)
    zram.remove_swap(old)
    assert mine <= devices()
    zram.remove_swap(record)


def ours(record: Path) -> set[str]:
    """Devices that removal by this record would remove; other tests of the machine may have theirs."""
    owned = decode(record.read_bytes(), zram.Owned)
    return {device for device in devices() - set(owned.before) if zram._is_ours(device, owned.mark)}


def devices() -> set[str]:
    return {path.name for path in Path("/sys/block").glob("zram*")}
