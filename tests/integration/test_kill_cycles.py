"""Agents killed at every step on real engines; a few cycles of each here, as many as one likes by `python -m bench kills`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from skerry.adapters.network.linux.probe import probe
from skerry.kit.record import decode
from skerry.testing.kills.cycles import Tally
from skerry.testing.oci_node import busybox, is_root
from skerry.testing.programs_node import KINDS, Kind, missing

CYCLES: dict[Kind, int] = {"crun": 4, "runc": 2, "runsc": 2, "microvm": 1}
SECONDS = "60"

pytestmark = [
    pytest.mark.skipif(not is_root(), reason="programs need root"),
    pytest.mark.skipif(busybox() is None, reason="no static busybox (busybox-static)"),
    pytest.mark.skipif(not probe().usable, reason=f"networks: {probe().rules}"),
    pytest.mark.timeout(300),
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_agent_leaves_nothing_that_the_next_does_not_find(tmp_path: Path, kind: Kind) -> None:
    if problem := missing(kind):
        pytest.skip(f"{kind}: {problem}")
    out, seed = tmp_path / "tally.json", os.urandom(4).hex()
    print(f"seed {seed}")
    argv = [sys.executable, "-m", "skerry.testing.kills.cycles", kind, str(CYCLES[kind]), seed, SECONDS, str(out)]
    subprocess.run(argv, check=True)
    tally = decode(out.read_bytes(), Tally)
    assert (tally.left, tally.problems) == ({}, ())
    assert tally.cycles >= 1
