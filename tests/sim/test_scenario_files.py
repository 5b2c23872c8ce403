"""Scenarios as files: what they say happens, in every process the same; what is wrong in them is named."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from skerry.apps.cli import app
from skerry.apps.sim import run
from skerry.apps.sim.report import SimReport
from skerry.apps.sim.scenario import read, shipped
from skerry.core.worlds.faults import WorldError

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    'about = "small"\nduration = "20m"\n[world]\ncities = 12\napps = 8\nload = 0.35\nnodes_of_london = 20\nnode_scale = 0.0625\n'
)
EVENT = '[[event]]\nkind = "{kind}"\nat = "5m"\n{more}\n'
EVENTS = {
    "lost": 'places = ["lhr"]\nfor = "5m"',
    "nodes-lost": 'places = ["lhr"]\nshare = 0.5\nfor = "5m"',
    "slow": 'places = ["lhr"]\nothers = ["*"]\nadd_ms = 50\nfor = "5m"',
    "demand": 'places = ["*"]\ntimes = 2.0\nfor = "5m"',
    "deploy": 'apps = ["*"]\nversion = "crashes"',
    "reboot": 'places = ["lhr"]\nshare = 0.5\ndown = "1m"',
    "cut-off": 'places = ["lhr"]\nfor = "5m"',
    "shrink": 'places = ["lhr"]\nshare = 0.5\nfor = "5m"',
}


def played(tmp_path: Path, text: str, *baselines: str) -> SimReport:
    path = tmp_path / "small.toml"
    path.write_text(text)
    scenario = read(path)
    return run.play(scenario, run.world_of(scenario.world, None), run.methods_of(baselines), lambda name, share: None)


@pytest.mark.parametrize("kind", sorted(EVENTS))
def test_every_event_is_borne_and_ends(tmp_path: Path, kind: str) -> None:
    calm = played(tmp_path, SMALL).methods[0]
    report = played(tmp_path, SMALL + EVENT.format(kind=kind, more=EVENTS[kind])).methods[0]
    [event] = report.recoveries
    assert event.recover_ms is not None
    assert report.points[-1].refused_rps / report.points[-1].offered_rps <= calm.refused_share + 0.001
    if kind == "lost":
        assert 0.0 < event.refused_share_max < 1.0
    if kind == "deploy":
        assert min(event.mean_before_ms, event.mean_after_ms) > 0.0
        assert {outcome.state for outcome in report.outcomes} == {"rolled_back"}
    if kind == "slow":
        assert report.latency.mean_ms > calm.latency.mean_ms
    if kind == "demand":
        assert report.offered_rps == pytest.approx(1.25 * calm.offered_rps, rel=0.01)


def test_baselines_play_in_the_same_world(tmp_path: Path) -> None:
    report = played(tmp_path, SMALL, "all")
    assert [method.method for method in report.methods] == ["skerry", "karmada", "nomad", "nearest", "everywhere"]
    assert len({method.offered_rps for method in report.methods}) == 1
    assert set(report.ratios) == {"karmada", "nomad", "nearest", "everywhere"}


def test_a_scenario_is_the_same_in_every_process(tmp_path: Path) -> None:
    path = tmp_path / "small.toml"
    path.write_text(SMALL + EVENT.format(kind="lost", more=EVENTS["lost"]))

    def digest(hash_seed: str) -> str:
        command = [sys.executable, "-m", "skerry.apps.cli", "sim", "run", str(path), "--json"]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT / "src")}
        return json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)["digest"]

    assert digest("1") == digest("2")


def test_what_is_not_as_expected_is_the_exit_status(tmp_path: Path) -> None:
    path = tmp_path / "small.toml"
    path.write_text(SMALL + '[[expect]]\nwhat = "mean_ms"\nat_most = 0.001\n')
    result = CliRunner().invoke(app, ["sim", "run", str(path)])
    assert result.exit_code == 1
    assert "NOT as expected" in result.stdout


def test_shipped_scenarios_are_listed_and_shown() -> None:
    listed = CliRunner().invoke(app, ["sim", "list"]).stdout
    for path in shipped():
        assert path.stem in listed
        assert read(path).about in CliRunner().invoke(app, ["sim", "show", path.stem]).stdout


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("about = 1\nduration = '1h'\n", 1, "about: is 1; it has to be a text"),
        ("about = 'x'\nduration = 'soon'\n", 2, "duration: is 'soon'"),
        ("about = 'x'\nduration = '1h'\n[world]\nload = nan\n", 4, "world.load: is nan"),
        ("about = 'x'\nduration = '1h'\n[world]\ncitys = 3\n", 4, "did you mean 'cities'?"),
        ("about = 'x'\nduration = '1h'\n[[event]]\nkind = 'lots'\nat = '1m'\n", 4, "did you mean 'lost'?"),
        ("about = 'x'\nduration = '1h'\n[[event]]\nkind = 'lost'\nat = '2h'\nplaces = ['lhr']\n", 5, "after the end"),
        ("about = 'x'\nduration = \n", 2, "is not TOML"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, text: str, line: int, said: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(WorldError) as raised:
        read(path)
    assert str(raised.value).startswith(f"{path}:{line}: ")
    assert said in str(raised.value)


def test_a_place_that_is_not_in_the_world_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(WorldError, match=r"small.toml:9: event.places: 'lhrr' is not in the world; did you mean 'lhr'"):
        played(tmp_path, SMALL + EVENT.format(kind="lost", more='places = ["lhrr"]'))


def test_a_report_is_drawn_over_time_and_on_the_map(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from skerry.apps.sim.pictures import draw, on_the_map, over_time

    text = SMALL + EVENT.format(kind="nodes-lost", more=EVENTS["nodes-lost"])
    report = played(tmp_path, text, "nomad")
    lines = over_time(report).axes[0].get_lines()
    assert [line.get_label() for line in lines[:2]] == ["skerry", "nomad"]
    assert [float(at) for at in lines[2].get_xdata()] == [5.0, 5.0]  # the event
    *_, dots, rings = on_the_map(report).axes[0].collections
    assert len(dots.get_offsets()) == sum(place.offered_rps > 0 for place in report.places) > 0
    assert len(rings.get_offsets()) == sum(place.refused_share > 0.001 for place in report.places)
    for path in draw(report, tmp_path):
        assert path.read_bytes().startswith(b"\x89PNG")
