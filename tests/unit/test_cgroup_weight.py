"""A whole tree of groups is weighed against everything else on the machine, in either hierarchy's own numbers."""

from pathlib import Path

import pytest

from skerry.adapters.cgroup.v1 import V1Tree
from skerry.adapters.cgroup.v2 import V2Tree


@pytest.mark.parametrize(("shares", "weight"), [(1024, "100"), (16_384, "1600"), (2, "1"), (1 << 20, "10000")])
def test_v2_in_weights(tmp_path: Path, shares: int, weight: str) -> None:
    (tmp_path / "tree").mkdir()
    file = tmp_path / "tree/cpu.weight"
    file.touch()
    V2Tree(tmp_path, "tree").weigh(shares)
    assert file.read_text() == weight


def test_v1_in_shares(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    file = tmp_path / "tree/cpu.shares"
    file.touch()
    V1Tree({"cpu": tmp_path}, "tree").weigh(16_384)
    assert file.read_text() == "16384"


def test_without_a_controller_nothing_is_weighed(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    V1Tree({"memory": tmp_path}, "tree").weigh(2048)
    V2Tree(tmp_path, "tree").weigh(2048)
    assert list((tmp_path / "tree").iterdir()) == []
