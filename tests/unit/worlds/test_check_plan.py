"""The independent checker: a mistake of each kind, planted in a plan that is right, is found and named."""

import copy
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_world_files import GOOD

from skerry.adapters.worlds import make_problem, read_world, write_plan, write_world
from skerry.core.placement.solve.whole import place_all
from skerry.core.worlds.plans import format_plan
from skerry.testing.check_plan.__main__ import main

Json = dict[str, Any]
APPS = (
    '{"app":"shop","cpu_millicores":1000,"memory_mib":1024,"rps_per_instance":50,"demand":{"leeds":120,"ccs":3.5},'
    '"deny":["cur"],"survive_sites":1,"min_total":2,"calls":{"orders":2},"latency_objective_ms":10}\n'
    '{"app":"blog","cpu_millicores":500,"memory_mib":64,"rps_per_instance":50,"jurisdiction":"eu","demand":{"leeds":10},"max_total":4}\n'
    '{"app":"kiosk","cpu_millicores":500,"memory_mib":64,"rps_per_instance":50,"demand":{"ccs":10},"region_min":{"sam":2},'
    '"max_site":3}\n'
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("check")
    for name, text in {**GOOD, "apps.jsonl": APPS}.items():
        (directory / name).write_text(text)
    return directory


@pytest.fixture(scope="module")
def plan(world: Path) -> Json:
    problem = read_world(world)
    write_plan(world / "plan.json", format_plan(problem, place_all(problem), {}, 0.0))
    return json.loads((world / "plan.json").read_text())


def said(world: Path, plan: Json, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    (world / "planted.json").write_text(json.dumps(plan))
    code = main([str(world), str(world / "planted.json")])
    return code, capsys.readouterr().out


def test_a_plan_that_is_right_passes(world: Path, plan: Json, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = said(world, plan, capsys)
    assert (code, "WRONG" in text) == (0, False), text


def test_a_plan_that_moved_data_of_several_apps_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_world(make_problem(cities=12, apps=40, seed=3, nodes_of_london=40, node_scale=0.1, shared=0.5), tmp_path)
    sites = [line.split(",")[0] for line in (tmp_path / "sites.csv").read_text().splitlines()[1:]]
    rows = [json.loads(line) for line in (tmp_path / "data.jsonl").read_text().splitlines()]
    for at, row in enumerate(rows):
        row["home"] = sites[at % len(sites)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    problem = read_world(tmp_path)
    found = place_all(problem)
    write_plan(tmp_path / "planned.json", format_plan(problem, found, {}, 0.0))
    calls = Counter(call.data for app in problem.apps for call in app.calls)
    moved = [problem.sites[int(home)].id != data.home for data, home in zip(problem.data, found.homes, strict=True)]
    assert any(calls[data.data] > 1 and went for data, went in zip(problem.data, moved, strict=True))
    code = main([str(tmp_path), str(tmp_path / "planned.json")])
    assert (code, "WRONG" in capsys.readouterr().out) == (0, False)


def counted(plan: Json, app: str, site: str, change: int) -> None:
    row = next((row for row in plan["instances"] if row[:2] == [app, site]), None)
    if row is None:
        plan["instances"].append([app, site, change])
    else:
        row[2] += change


def fewer(plan: Json) -> None:
    row = next(row for row in plan["instances"] if row[0] == "shop")
    row[2] -= 1


def flow(plan: Json, change: float) -> None:
    plan["flows"][0][3] += change


def prices(plan: Json, price: float) -> None:
    for app, metro, *_ in plan["flows"]:
        plan["certificate"]["apps"].setdefault(app, {}).setdefault("metro", {})[metro] = price


PLANTED: list[tuple[str, Callable[[Json], object], str]] = [
    ("a denied place", lambda plan: counted(plan, "shop", "cur", 1), "shop runs at cur: denied"),
    ("outside the jurisdiction", lambda plan: counted(plan, "blog", "lhr", 1), "blog runs at lhr: outside the jurisdiction"),
    ("too many in all", lambda plan: counted(plan, "blog", "fra", 9), "blog: max_total is not kept"),
    ("too many in a site", lambda plan: counted(plan, "kiosk", "cur", 3), "max_site is 3"),
    (
        "more than the nodes hold",
        lambda plan: counted(plan, "shop", "fra", 40),
        "fra: what is placed there does not fit",
    ),
    ("no instance for the losses", fewer, "shop: survive_sites is not kept"),
    ("an overloaded instance", lambda plan: flow(plan, 1000.0), "its instances can"),
    ("forgotten demand", lambda plan: flow(plan, -1.0), "the plan speaks of"),
    ("a wrong term", lambda plan: plan["objective"].update(latency=1.0), "objective.latency is"),
    ("a wrong total", lambda plan: plan["objective"].update(total=1.0), "objective.total is"),
    ("a bound that is not proven", lambda plan: plan.update(bound=plan["bound"] * 1.01), "the certificate proves"),
    ("prices too high", lambda plan: prices(plan, 5000.0), "the certificate proves"),
    ("prices too low", lambda plan: prices(plan, 0.001), "the certificate proves"),
    ("a bound above J", lambda plan: plan.update(bound=plan["objective"]["total"] * 2), "is above J"),
    ("a wrong gap", lambda plan: plan.update(gap=plan["gap"] + 0.1), "gap is"),
    ("a home that is nowhere", lambda plan: plan["homes"].update(orders="xyz"), "xyz is no site"),
    ("an app nobody knows", lambda plan: counted(plan, "ship", "lhr", 1), "ship is no app"),
]


@pytest.mark.parametrize(("plant", "text"), [row[1:] for row in PLANTED], ids=[row[0] for row in PLANTED])
def test_a_planted_mistake_is_found(
    world: Path, plan: Json, plant: Callable[[Json], object], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    planted = copy.deepcopy(plan)
    plant(planted)
    code, found = said(world, planted, capsys)
    assert code == 1
    assert text in found


def test_a_limit_that_a_plan_says_it_could_not_keep_is_no_mistake_but_shown(
    world: Path, plan: Json, capsys: pytest.CaptureFixture[str]
) -> None:
    planted = copy.deepcopy(plan)
    planted["instances"] = [row for row in planted["instances"] if row[:2] != ["kiosk", "cur"]]
    planted["flows"] = [row for row in planted["flows"] if row[0] != "kiosk"]
    planted["unserved"].append(["kiosk", "ccs", 10])
    planted["short"].append(["kiosk", "region_min", 2])
    _, found = said(world, planted, capsys)
    assert "not met, and said so: kiosk: region_min is not kept" in found
    assert "WRONG: kiosk" not in found


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Json]:
    """A world whose largest apps have data of their own, so that the bound is proven at several prices."""
    directory = tmp_path_factory.mktemp("large")
    problem = make_problem(cities=14, apps=30, seed=1, nodes_of_london=40, node_scale=0.06)
    write_world(problem, directory)
    problem = read_world(directory)
    write_plan(directory / "plan.json", format_plan(problem, place_all(problem), {}, 0.0))
    return directory, json.loads((directory / "plan.json").read_text())


def test_a_bound_at_several_prices_is_what_they_prove(large: tuple[Path, Json], capsys: pytest.CaptureFixture[str]) -> None:
    directory, plan = large
    assert plan["certificate"]["apart"]
    assert plan["certificate"]["others"]
    assert any(level > 0.0 for row in plan["certificate"]["levels"].values() for level in row.values())
    code, text = said(directory, plan, capsys)
    assert (code, "WRONG" in text) == (0, False), text


@pytest.mark.parametrize(
    "plant",
    (
        lambda proof: proof["others"].clear(),
        lambda proof: proof["apart"].clear(),
        lambda proof: [
            row.update(dict.fromkeys(row, 1e9)) for one in (proof, *proof["others"]) for row in one["levels"].values()
        ],
    ),
    ids=("other prices left out", "nobody apart", "levels beyond all reach"),
)
def test_a_part_of_the_proof_that_is_missing_or_wrong_is_found(
    large: tuple[Path, Json], plant: Callable[[Json], object], capsys: pytest.CaptureFixture[str]
) -> None:
    directory, plan = large
    planted = copy.deepcopy(plan)
    plant(planted["certificate"])
    code, found = said(directory, planted, capsys)
    assert code == 1
    assert "the certificate proves" in found


def test_a_proof_by_tangents_between_homes_is_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    problem = make_problem(cities=14, apps=90, seed=5, nodes_of_london=40, node_scale=0.06)
    write_world(problem, tmp_path)
    problem = read_world(tmp_path)
    write_plan(tmp_path / "plan.json", format_plan(problem, place_all(problem), {}, 0.0))
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert any(len(set(app.get("tangents", ()))) > 1 for app in plan["certificate"]["apps"].values())
    code, text = said(tmp_path, plan, capsys)
    assert (code, "WRONG" in text) == (0, False), text
    for app in plan["certificate"]["apps"].values():
        app["tangents"] = []
    code, text = said(tmp_path, plan, capsys)
    assert code == 1
    assert "the certificate proves" in text
