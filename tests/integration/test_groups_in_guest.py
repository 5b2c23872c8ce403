"""Control groups of the unified hierarchy on a real kernel: this machine may have the old ones, so it is a guest's."""

import pytest

from skerry.adapters import tools
from skerry.adapters.sandbox.microvm import build
from skerry.testing import groups_guest
from skerry.testing.contracts.groups import CHECKS
from skerry.testing.groups_inside import DONE, FAILS, HOLDS

QEMU, GUEST = tools.find_qemu(), build.find()
pytestmark = [
    pytest.mark.skipif(not QEMU.usable, reason=f"qemu: {QEMU.problem}"),
    pytest.mark.skipif(GUEST is None, reason=f"no kernel for guests: {build.GET}"),
]


async def test_the_unified_hierarchy_keeps_the_contract_of_control_groups() -> None:
    assert GUEST is not None
    said = await groups_guest.run(QEMU.path, GUEST)
    lines = said.splitlines()
    assert DONE in lines, said
    assert not [line for line in lines if line.startswith(FAILS)], said
    holding = [line.removeprefix(HOLDS).strip() for line in lines if line.startswith(HOLDS)]
    assert holding == [*(check.__name__ for check in CHECKS), "a_disk"]
