"""Control groups do what their protocol says, on the hierarchies that this machine has."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from skerry.adapters.cgroup.base import Tree, disk_of
from skerry.adapters.cgroup.probe import find_tree
from skerry.adapters.cgroup.v1 import CONTROLLERS
from skerry.testing.contracts.groups import CHECKS, a_disk_is_read_as_fast_as_allowed, ended, until
from skerry.testing.workerd_node import is_root

TREE, PROBLEM = find_tree(f"skerry-contract-{os.getpid()}", controllers=(*CONTROLLERS, "freezer", "blkio"))
pytestmark = [
    pytest.mark.skipif(not is_root(), reason="control groups need root"),
    pytest.mark.skipif(TREE is None or not TREE.limits, reason=PROBLEM or "no memory and CPU controllers here"),
]


@pytest.fixture
def tree() -> Iterator[Tree]:
    assert TREE is not None
    try:
        yield TREE
    finally:
        for name in TREE.names():
            group = TREE.open(name)
            until(lambda group=group: ended(group))


def test_a_disk_is_read_as_fast_as_allowed(tree: Tree, tmp_path: Path) -> None:
    device = disk_of(tmp_path)
    if device is None:
        pytest.skip("temporary files are on no disk here")
    path = tmp_path / "file"
    path.write_bytes(os.urandom(8 << 20))
    with path.open("rb") as file:
        os.fsync(file.fileno())
    a_disk_is_read_as_fast_as_allowed(tree, device, str(path))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_groups(tree: Tree, check: Callable[[Tree], None]) -> None:
    check(tree)
    assert tree.names() == ()
    assert not list(Path("/sys/fs/cgroup").glob(f"**/skerry-contract-{os.getpid()}*"))
