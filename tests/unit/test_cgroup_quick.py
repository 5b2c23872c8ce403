"""Hurrying the kernel for the moment of a start, and undoing it whatever happens."""

from pathlib import Path

import pytest

from skerry.adapters.cgroup import quick
from skerry.adapters.cgroup.quick import QuickMoves
from skerry.testing.waiting import eventually


@pytest.fixture
def knob(tmp_path: Path) -> Path:
    path = tmp_path / "rcu_expedited"
    path.write_text("0\n")
    return path


def make(tmp_path: Path, knob: Path) -> QuickMoves:
    moves = QuickMoves(tmp_path / "note", knob=knob)
    moves.begin()
    return moves


async def test_on_for_a_moment(tmp_path: Path, knob: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick, "HOLD_S", 0.02)
    moves = make(tmp_path, knob)
    moves.hurry()
    moves.hurry()
    assert knob.read_text() == "1"
    await eventually(lambda: knob.read_text() == "0")
    assert not (tmp_path / "note").exists()


async def test_what_a_killed_run_left_is_undone(tmp_path: Path, knob: Path) -> None:
    killed = make(tmp_path, knob)
    killed.hurry()
    after = make(tmp_path, knob)
    assert knob.read_text() == "0"
    assert not (tmp_path / "note").exists()
    after.hurry()
    assert knob.read_text() == "1"
    after.end()
    assert knob.read_text() == "0"
    after.end()
    killed.end()


async def test_set_by_somebody_else_it_is_left_alone(tmp_path: Path, knob: Path) -> None:
    knob.write_text("1\n")
    moves = make(tmp_path, knob)
    moves.hurry()
    moves.end()
    assert knob.read_text() == "1\n"


async def test_absent_it_is_not_missed(tmp_path: Path) -> None:
    moves = make(tmp_path, tmp_path / "no such file")
    moves.hurry()
    moves.end()
    assert list(tmp_path.iterdir()) == []
