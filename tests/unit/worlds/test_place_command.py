"""`skerry place`: a world's files in, a plan that an independent checker believes out."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from skerry.adapters.worlds import make_problem, write_world
from skerry.apps.cli import app
from skerry.core.worlds.faults import WorldError
from skerry.testing.check_plan.__main__ import main as check_plan


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("place") / "world"
    write_world(make_problem(cities=6, apps=20, seed=7, load=0.5, nodes_of_london=40, node_scale=0.05), directory)
    return directory


@pytest.fixture(scope="module")
def plan(world: Path) -> Path:
    out = world.parent / "plan.json"
    assert place(world, out).exit_code == 0
    return out


def place(world: Path, out: Path, *more: str) -> Result:
    return CliRunner().invoke(app, ["place", "--world", str(world), "--out", str(out), *more], catch_exceptions=True)


def test_a_plan_is_what_it_says(world: Path, plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_plan([str(world), str(plan)]) == 0
    said = json.loads(plan.read_text())
    assert 0.0 < said["bound"] <= said["objective"]["total"]
    assert said["gap"] == pytest.approx((said["objective"]["total"] - said["bound"]) / said["bound"])
    assert said["modelled_pairs"] == 6 * 6 + 6 * 5
    assert set(said["rejected"]) <= {f"app-{at:06d}" for at in range(20)}


def test_the_same_world_gives_the_same_plan(world: Path, plan: Path, tmp_path: Path) -> None:
    assert place(world, tmp_path / "again.json").exit_code == 0
    first, second = json.loads(plan.read_text()), json.loads((tmp_path / "again.json").read_text())
    assert {**first, "seconds": 0} == {**second, "seconds": 0}


def test_from_a_plan_nothing_moves_in_an_unchanged_world(world: Path, plan: Path, tmp_path: Path) -> None:
    result = place(world, tmp_path / "next.json", "--from", str(plan), "--json")
    said = json.loads(result.stdout)
    assert (said["moves"], said["moved_homes"], said["objective"]["move"]) == (0, 0, 0.0)
    assert json.loads((tmp_path / "next.json").read_text())["instances"] == json.loads(plan.read_text())["instances"]


@pytest.mark.parametrize("event", ["site-lost lhr", "site-draining cur", "site-cut-off lhr", "demand app-000003 m-lhr 5000"])
def test_an_event_is_answered_within_all_limits(
    world: Path, plan: Path, tmp_path: Path, event: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "next.json"
    assert place(world, out, "--from", str(plan), "--event", event).exit_code == 0
    assert check_plan([str(world), str(out), "--from", str(plan), "--event", event]) == 0
    said = json.loads(out.read_text())
    if event.startswith(("site-lost", "site-draining")):
        assert event.split()[1] not in {site for _, site, _ in said["instances"]}


def test_a_background_pass_starts_no_more_than_it_may_and_pays(
    world: Path, plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost, better = tmp_path / "lost.json", tmp_path / "better.json"
    assert place(world, lost, "--from", str(plan), "--event", "site-lost cur").exit_code == 0
    result = place(world, better, "--from", str(lost), "--rebalance", "30", "--json")
    assert check_plan([str(world), str(better), "--from", str(lost)]) == 0
    had, said = json.loads(lost.read_text()), json.loads(better.read_text())
    before = {(app, site): count for app, site, count in had["instances"]}
    starts = sum(max(0, count - before.get((app, site), 0)) for app, site, count in said["instances"])
    assert 0 < starts <= 30
    assert json.loads(result.stdout)["moves"] >= starts

    def without_moves(objective: dict[str, float]) -> float:
        return objective["total"] - objective["move"] - objective["home"]

    assert without_moves(said["objective"]) < without_moves(had["objective"])


def test_a_background_pass_needs_a_plan_to_go_on_from(world: Path, tmp_path: Path) -> None:
    result = place(world, tmp_path / "plan.json", "--rebalance", "30")
    assert result.exit_code == 2
    assert "give that with --from" in " ".join(result.stderr.split())
    assert not (tmp_path / "plan.json").exists()


MISTAKES = [
    (["--event", "site-lst lhr"], "--event: 'site-lst lhr': is no event; did you mean 'site-lost'?"),
    (["--event", "site-lost lhx"], "--event: site: 'lhx' is no site of this world; did you mean 'lhr'?"),
    (["--event", "site-lost"], "--event: 'site-lost': has 0 words after site-lost; it is: site-lost SITE"),
    (["--event", "demand app-000003 m-lhr NaN"], "--event: rps: 'NaN' is not allowed"),
    (["--from", "nowhere.json"], "nowhere.json: cannot be read"),
]


@pytest.mark.parametrize(("options", "said"), MISTAKES, ids=[said for _, said in MISTAKES])
def test_what_cannot_be_taken_is_named_and_nothing_written(world: Path, tmp_path: Path, options: list[str], said: str) -> None:
    result = place(world, tmp_path / "plan.json", *options)
    assert isinstance(result.exception, WorldError)
    assert str(result.exception).startswith(said)
    assert not (tmp_path / "plan.json").exists()


PLAN_MISTAKES = [
    ('{"instances": [', ":1: is no JSON"),
    ('{"instances": [["nobody", "lhr", 1]], "flows": []}', ": instances[0][0]: 'nobody' is no app of this world"),
    ('{"instances": [["app-000001", "lhr", -1]], "flows": []}', ": instances[0][2]: -1 is not allowed; allowed: 1 to"),
    ('{"instances": [["app-000001", "lhr", "1"]], "flows": []}', ": instances[0][2]: Expected `int`, got `str`"),
    ('{"instances": [], "flows": [["app-000001", "m-lhr", "lhr", -1.5]]}', ": flows[0]: -1.5 is not allowed"),
    ('{"instances": [], "flows": [], "flow": []}', ": flow: is not known here; did you mean 'flows'?"),
    (
        '{"instances": [["app-000001", "lhr", 1], ["app-000001", "lhr", 1]], "flows": []}',
        ": instances[1]: app-000001, lhr is",
    ),
]


@pytest.mark.parametrize(("text", "said"), PLAN_MISTAKES, ids=[said for _, said in PLAN_MISTAKES])
def test_a_plan_that_is_none_is_named_with_its_field(world: Path, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "old.json").write_text(text)
    result = place(world, tmp_path / "plan.json", "--from", str(tmp_path / "old.json"))
    assert str(result.exception).startswith(f"old.json{said}")
