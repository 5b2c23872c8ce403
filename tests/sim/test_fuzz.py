"""Random worlds: a seed says how a world is made and what befalls it. A failure names its seed and how to play it again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from skerry.apps.cli import app
from skerry.apps.sim import fuzzing
from skerry.core.types.plan import Reason, Rejection
from skerry.testing.world import fuzz, run_world
from skerry.testing.world.fuzz import play

ROOT = Path(__file__).resolve().parents[2]
SEEDS = 60
IN_ONE_TEST = 5


@pytest.mark.parametrize("first", range(1, SEEDS + 1, IN_ONE_TEST))
def test_random_worlds_keep_every_promise_and_converge(first: int) -> None:
    for seed in range(first, first + IN_ONE_TEST):
        run_world(play(seed))


@pytest.mark.parametrize(("first", "seeds"), [(3, 4), (44, 1)])  # in 44 two cities are lost and come back together
def test_a_seed_is_the_same_story_in_every_process(first: int, seeds: int) -> None:
    def traces(hash_seed: str) -> str:
        asked = ["--from", str(first), "--seeds", str(seeds), "--jobs", "1", "--json"]
        command = [sys.executable, "-m", "skerry.apps.cli", "sim", "fuzz", *asked]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT / "src")}
        said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        report = json.loads(said)
        assert (report["first"], report["played"], report["broken"]) == (first, seeds, [])
        return report["digest"]

    assert traces("0") == traces("1")


def test_processes_side_by_side_find_what_one_alone_finds() -> None:
    alone = fuzzing.play_many(1, 4, jobs=1, minutes=None, trace_lines=10, on_played=lambda played: None)
    heard: list[int] = []
    together = fuzzing.play_many(1, 4, jobs=2, minutes=None, trace_lines=10, on_played=lambda played: heard.append(played.seed))
    assert together.digest == alone.digest
    assert sorted(heard) == [1, 2, 3, 4]


def test_a_broken_seed_tells_the_promise_the_trace_and_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unexplained(self: fuzz.Turmoil) -> None:
        self._world.checks.reason("lhr", Rejection(place="", reason=Reason.NO_CAPACITY))

    monkeypatch.setattr(fuzz.Turmoil, "rage", unexplained)
    shown = CliRunner().invoke(app, ["sim", "fuzz", "--from", "7", "--seeds", "1", "--jobs", "1"])
    assert shown.exit_code == 1
    assert "promise 8 (every rejection has a reason that a person can read)" in shown.output
    assert "VIOLATION of 8" in shown.output
    assert "again: skerry sim fuzz --from 7 --seeds 1" in shown.output


def test_fuzz_stops_when_its_minutes_are_over() -> None:
    report = fuzzing.play_many(1, 1_000_000, jobs=1, minutes=0.0, trace_lines=10, on_played=lambda played: None)
    assert report.played == 0
