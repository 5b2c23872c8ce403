"""Random worlds: a seed says how a world is made and what befalls it. A failure names its seed and how to play it again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from skerry.testing.world import run_world
from skerry.testing.world.fuzz import play

ROOT = Path(__file__).resolve().parents[2]
SEEDS = 60
IN_ONE_TEST = 5


@pytest.mark.parametrize("first", range(1, SEEDS + 1, IN_ONE_TEST))
def test_random_worlds_keep_every_promise_and_converge(first: int) -> None:
    for seed in range(first, first + IN_ONE_TEST):
        run_world(play(seed))


def test_a_seed_is_the_same_story_in_every_process() -> None:
    def traces(hash_seed: str) -> str:
        command = [sys.executable, "-m", "skerry.testing.world.fuzz", "3", "6", "11"]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT / "src")}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    found = traces("1")
    assert found.count("seed ") == 3
    assert traces("2") == found
