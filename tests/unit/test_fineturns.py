"""A switch of the whole machine: who sets it sets it back, even after kill -9, and nobody else does."""

from pathlib import Path

import pytest

from skerry.adapters import fineturns
from skerry.adapters.fineturns import FineTurnsError


@pytest.fixture
def features(tmp_path: Path) -> Path:
    path = tmp_path / "features"
    path.write_text("PLACE_LAG NO_HRTICK NO_HRTICK_DL \n")
    return path


def test_it_is_set_and_set_back(features: Path, tmp_path: Path) -> None:
    record = tmp_path / "record"
    assert fineturns.ensure(record, features=features)
    assert (features.read_text(), record.exists()) == ("HRTICK", True)
    fineturns.give_back(record, features=features)
    assert (features.read_text(), record.exists()) == ("NO_HRTICK", False)
    fineturns.give_back(record, features=features)


@pytest.mark.parametrize(
    ("listed", "found"),
    [
        ("PLACE_LAG HRTICK", (True, "HRTICK is on")),
        ("PLACE_LAG NO_HRTICK", (True, "HRTICK can be switched on")),
        ("GENTLE_FAIR_SLEEPERS NO_HRTICK", (True, "not needed with this kernel")),
        ("PLACE_LAG", (False, "this kernel has no HRTICK")),
    ],
)
def test_what_a_machine_has_is_told_and_left_as_it_is(features: Path, listed: str, found: tuple[bool, str]) -> None:
    features.write_text(listed)
    assert fineturns.find(features=features) == found
    assert features.read_text() == listed


def test_a_machine_without_the_file_is_told(tmp_path: Path) -> None:
    good, found = fineturns.find(features=tmp_path / "features")
    assert not good
    assert "No such file" in found


def test_what_others_set_is_theirs(features: Path, tmp_path: Path) -> None:
    features.write_text("PLACE_LAG HRTICK\n")
    assert not fineturns.ensure(tmp_path / "record", features=features)
    fineturns.give_back(tmp_path / "record", features=features)
    assert features.read_text() == "PLACE_LAG HRTICK\n"


def test_a_kernel_that_keeps_no_balance_is_left_alone(features: Path, tmp_path: Path) -> None:
    features.write_text("GENTLE_FAIR_SLEEPERS NO_HRTICK\n")
    assert not fineturns.ensure(tmp_path / "record", features=features)
    assert not (tmp_path / "record").exists()


def test_what_a_killed_owner_set_is_the_next_one_s_to_set_back(features: Path, tmp_path: Path) -> None:
    record = tmp_path / "record"
    fineturns.ensure(record, features=features)
    features.write_text("PLACE_LAG HRTICK\n")
    assert not fineturns.ensure(record, features=features)
    assert features.read_text() == "NO_HRTICK"


def test_after_a_boot_nothing_is_left_to_set_back(features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tmp_path / "record"
    fineturns.ensure(record, features=features)
    features.write_text("PLACE_LAG HRTICK\n")
    monkeypatch.setattr(fineturns, "boot_id", lambda: "another")
    fineturns.give_back(record, features=features)
    assert (features.read_text(), record.exists()) == ("PLACE_LAG HRTICK\n", False)


@pytest.mark.parametrize("text", ["PLACE_LAG\n", None])
def test_where_there_is_none_it_is_said_and_nothing_is_left(text: str | None, features: Path, tmp_path: Path) -> None:
    features.unlink()
    if text is not None:
        features.write_text(text)
    with pytest.raises(FineTurnsError, match="HRTICK" if text else "debugfs"):
        fineturns.ensure(tmp_path / "record", features=features)
    assert not (tmp_path / "record").exists()


def test_a_broken_record_is_thrown_away(features: Path, tmp_path: Path) -> None:
    (tmp_path / "record").write_bytes(b"{")
    fineturns.give_back(tmp_path / "record", features=features)
    assert not (tmp_path / "record").exists()
    assert "NO_HRTICK" in features.read_text()
