"""Worlds as files: what is written reads back alike; every mistake is refused with file, line, field and what is allowed."""
# ruff: noqa: E501 - one mistake per line reads as a table

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from skerry.adapters.worlds import make_problem, read_world, write_world
from skerry.apps.cli import app
from skerry.core.types.problem import Problem
from skerry.core.worlds.faults import WorldError

GOOD = {
    "sites.csv": (
        "site,name,lat,lon,country,region,jurisdictions,nodes,cpu_millicores,memory_mib,disk_gib,features,price,state,reserve\n"
        "lhr,London,51.5,-0.1,GB,weur,,20,4000,8192,100,kvm gvisor,1,up,0.1\n"
        "cur,Curaçao,12.2,-69,CW,sam,,3,4000,8192,100,gvisor,2,up,0\n"
        "fra,Frankfurt,50,8.6,DE,weur,eu,5,4000,8192,100,kvm,1,up,0\n"
    ),
    "metros.csv": "metro,name,lat,lon,country\nleeds,Leeds,53.8,-1.5,GB\nccs,Caracas,10.5,-66.9,VE\n",
    "rtt.csv": "from,to,rtt_ms\nleeds,lhr,6.5\nleeds,fra,19\nlhr,fra,13\n",
    "apps.jsonl": (
        '{"app":"shop","cpu_millicores":100,"memory_mib":128,"rps_per_instance":50,"demand":{"leeds":120,"ccs":3.5},'
        '"allow":["region:weur","cur"],"calls":{"orders":2}}\n'
        '{"app":"blog","cpu_millicores":50,"memory_mib":64,"rps_per_instance":50,"jurisdiction":"eu"}\n'
    ),
    "data.jsonl": '{"data":"orders","home":"lhr","movable":true,"size_gib":3}\n',
    "weights.json": '{"latency":1,"late":5,"unserved":10000,"cost":100,"move":20,"home":200}\n',
}


def write(directory: Path, changes: dict[str, str | None]) -> Path:
    for name, text in {**GOOD, **changes}.items():
        if text is not None:
            (directory / name).write_text(text)
    return directory


def changed(name: str, old: str, new: str) -> dict[str, str | None]:
    assert old in GOOD[name]
    return {name: GOOD[name].replace(old, new, 1)}


def same(one: Problem, other: Problem) -> None:
    for field in ("sites", "metros", "apps", "data", "weights"):
        assert getattr(one, field) == getattr(other, field)
    for field in ("rtt_ms", "rtt_measured", "site_rtt_ms", "site_rtt_measured"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
    for field in ("start", "metro", "rps"):
        np.testing.assert_array_equal(getattr(one.demand, field), getattr(other.demand, field))


def test_a_world_is_read_as_it_says(tmp_path: Path) -> None:
    world = read_world(write(tmp_path, {}))
    shop = world.apps[0]
    assert [site.nodes for site in world.sites] == [20, 3, 5]
    assert (shop.allow, shop.calls[0].per_request, shop.priority) == (("region:weur", "cur"), 2.0, 50)
    assert [array.tolist() for array in world.demand.of(0)] == [[0, 1], [120.0, 3.5]]
    assert len(world.demand.of(1)[0]) == 0


def test_what_is_missing_in_rtts_is_modelled_and_marked_so(tmp_path: Path) -> None:
    world = read_world(write(tmp_path, {}))
    assert world.rtt_ms[0].tolist()[0] == 6.5
    assert world.rtt_measured.tolist() == [[True, False, True], [False, False, False]]
    assert world.site_rtt_ms[2, 0] == world.site_rtt_ms[0, 2] == 13  # one row holds for both directions
    assert world.site_rtt_measured.tolist() == [[True, False, True], [False, True, False], [True, False, True]]
    assert 60 < world.rtt_ms[0, 1] < 250


def test_files_that_may_be_absent_have_defaults(tmp_path: Path) -> None:
    apps = GOOD["apps.jsonl"].replace(',"calls":{"orders":2}', "")
    world = read_world(write(tmp_path, {"rtt.csv": None, "data.jsonl": None, "weights.json": None, "apps.jsonl": apps}))
    assert world.weights.unserved == 10_000
    assert not world.rtt_measured.any()


@pytest.mark.parametrize("seed", [1, 2])
def test_what_is_written_reads_back_alike(tmp_path: Path, seed: int) -> None:
    made = make_problem(cities=25, apps=60, seed=seed, metros=30)
    write_world(made, tmp_path / "world")
    same(made, read_world(tmp_path / "world"))


def test_written_twice_is_byte_for_byte_the_same(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_world(make_problem(cities=8, apps=10), tmp_path / name)
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


MISTAKES: list[tuple[dict[str, str | None], str]] = [
    (changed("rtt.csv", "leeds,fra,19", "leeds,fra,-19"), "rtt.csv:3: rtt_ms: '-19' is not allowed; allowed: a number from 0"),
    (changed("rtt.csv", "leeds,fra,19", "leeds,fra,nan"), "rtt.csv:3: rtt_ms: 'nan' is not allowed"),
    (changed("rtt.csv", "leeds,fra,19", "leeds,fra,"), "rtt.csv:3: rtt_ms: is empty"),
    (changed("rtt.csv", "leeds,fra,19", "leeds,fra"), "rtt.csv:3: has 2 fields; the head names 3"),
    (changed("rtt.csv", "leeds,fra,19", "leeds,fran,19"), "rtt.csv:3: to: 'fran' is no site of sites.csv; did you mean 'fra'?"),
    (changed("rtt.csv", "leeds,fra,19", "leads,fra,19"), "rtt.csv:3: from: 'leads' is neither a metro nor a site; did you mean 'leeds'?"),
    (changed("rtt.csv", "leeds,fra,19", "leeds,lhr,19"), "rtt.csv:3: from: the pair leeds,lhr is there twice"),
    (changed("rtt.csv", "lhr,fra,13", "lhr,lhr,13"), "rtt.csv:4: rtt_ms: lhr to itself is 0"),
    (changed("rtt.csv", "rtt_ms", "rtt"), "rtt.csv:1: rtt: is no column; did you mean 'rtt_ms'?"),
    (changed("metros.csv", "leeds,Leeds", "lhr,Leeds"), "rtt.csv:2: from: 'leeds' is neither"),
    (changed("sites.csv", "CW,sam,,3", "CW,sam,,0"), "sites.csv:3: nodes: '0' is not allowed; allowed: a whole number from 1 to 100000"),
    (changed("sites.csv", "12.2,-69", "112.2,-69"), "sites.csv:3: lat: '112.2' is not allowed; allowed: a number from -90 to 90"),
    (changed("sites.csv", "12.2,-69", "inf,-69"), "sites.csv:3: lat: 'inf' is not allowed"),
    (changed("sites.csv", "cur,Curaçao", "lhr,Curaçao"), "sites.csv:3: site: 'lhr' is there twice"),
    (changed("sites.csv", "2,up,0", "2,upp,0"), "sites.csv:3: state: 'upp' is not allowed; allowed: up, draining, down, cut_off"),
    (changed("sites.csv", "1,up,0.1", "1,up,1.0"), "sites.csv:2: reserve: '1.0' is not allowed"),
    (changed("sites.csv", ",GB,", ",UK2,"), "sites.csv:2: country: 'UK2' is not allowed"),
    (changed("sites.csv", "nodes,cpu", "node,cpu"), "sites.csv:1: node: is no column; did you mean 'nodes'?"),
    ({"sites.csv": GOOD["sites.csv"].splitlines()[0]}, "sites.csv: names no site"),
    ({"sites.csv": None}, "sites.csv: is not there; a world has sites.csv, metros.csv, apps.jsonl"),
    ({"metros.csv": ""}, "metros.csv: is empty; its first line names the columns: metro,lat,lon,country,name"),
    (changed("apps.jsonl", '"ccs":3.5', '"ccs":NaN'), "apps.jsonl:1: demand.ccs: is not a number (NaN or Infinity)"),
    (changed("apps.jsonl", '"ccs":3.5', '"ccs":-3.5'), "apps.jsonl:1: demand.ccs: -3.5 is not allowed; allowed: 0 to 1e+09"),
    (changed("apps.jsonl", '"ccs":3.5', '"cs":3.5'), "apps.jsonl:1: demand.cs: is no metro of metros.csv; did you mean 'ccs'?"),
    (changed("apps.jsonl", '"allow"', '"alow"'), "apps.jsonl:1: alow: is not known here; did you mean 'allow'?"),
    (changed("apps.jsonl", '"cur"]', '"curr"]'), "apps.jsonl:1: allow: 'curr' is no site, country:XX or region:NAME of sites.csv; did you mean 'cur'?"),
    (changed("apps.jsonl", '"calls"', '"deny":["cur"],"calls"'), "apps.jsonl:1: deny: 'cur' is also in allow"),
    (changed("apps.jsonl", '"orders":2', '"order":2'), "apps.jsonl:1: calls.order: is not in data.jsonl; did you mean 'orders'?"),
    (changed("apps.jsonl", '"app":"blog"', '"app":"shop"'), "apps.jsonl:2: app: 'shop' is there twice"),
    (changed("apps.jsonl", '"memory_mib":64', '"memory_mib":9000'), "apps.jsonl:2: memory_mib: 9000 is more than any node has (8192 besides its reserve)"),
    (changed("apps.jsonl", '"memory_mib":64', '"memory_mib":"64"'), "apps.jsonl:2: memory_mib: Expected `int`, got `str`"),
    (changed("apps.jsonl", '"jurisdiction":"eu"', '"jurisdiction":"us"'), "apps.jsonl:2: jurisdiction: no site is in 'us'; there are: eu"),
    (changed("apps.jsonl", '"jurisdiction":"eu"', '"features":["kvn"]'), "apps.jsonl:2: features: no site has 'kvn'; did you mean 'kvm'?"),
    (changed("apps.jsonl", '"jurisdiction":"eu"', '"min_total":5,"max_total":3'), "apps.jsonl:2: max_total: 3 is less than the minimums ask for (5)"),
    (changed("apps.jsonl", '"jurisdiction":"eu"', '"region_min":{"apac":1}'), "apps.jsonl:2: region_min.apac: is no region of sites.csv"),
    (changed("apps.jsonl", '"jurisdiction":"eu"}', '"jurisdiction":"eu"'), "apps.jsonl:2: is no JSON object"),
    (changed("apps.jsonl", '"rps_per_instance":50,"jur', '"rps_per_instance":0,"jur'), "apps.jsonl:2: rps_per_instance: 0.0 is not allowed"),
    (changed("data.jsonl", '"home":"lhr"', '"home":"lrh"'), "data.jsonl:1: home: 'lrh' is no site of sites.csv; did you mean 'lhr'?"),
    (changed("weights.json", '"late"', '"lat"'), "weights.json: lat: is not known here; did you mean 'late'?"),
    (changed("weights.json", "10000", "-1"), "weights.json: unserved: -1.0 is not allowed"),
    ({"aps.jsonl": "", "weights.json": None}, "aps.jsonl: is no file of a world; did you mean 'apps.jsonl'?"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "said"), MISTAKES, ids=[said for _, said in MISTAKES])
def test_a_mistake_is_named_with_file_line_and_field(tmp_path: Path, changes: dict[str, str | None], said: str) -> None:
    with pytest.raises(WorldError) as refused:
        read_world(write(tmp_path, changes))
    assert str(refused.value).startswith(said)


def test_a_metro_with_the_name_of_a_site_is_refused_where_that_is_ambiguous(tmp_path: Path) -> None:
    metros = GOOD["metros.csv"].replace("leeds,", "lhr,")
    apps = GOOD["apps.jsonl"].replace('"leeds"', '"lhr"')
    with pytest.raises(WorldError, match=r"rtt.csv:2: from: 'lhr' is a metro and a site; give the metro another name"):
        read_world(write(tmp_path, {"metros.csv": metros, "apps.jsonl": apps, "rtt.csv": "from,to,rtt_ms\nlhr,fra,13\n"}))
    assert read_world(write(tmp_path, {"metros.csv": metros, "apps.jsonl": apps, "rtt.csv": "from,to,rtt_ms\nccs,cur,9\n"}))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    write(tmp_path, {})
    (tmp_path / "metros.csv").write_bytes(b"metro,lat,lon,country\n\xff\xfe,1,1,GB\n")
    with pytest.raises(WorldError, match=r"metros.csv:2: is not UTF-8"):
        read_world(tmp_path)


def test_commands_make_a_world_and_check_it(tmp_path: Path) -> None:
    out = str(tmp_path / "world")
    made = CliRunner().invoke(app, ["world", "make", "--out", out, "--cities", "6", "--apps", "5"])
    assert made.exit_code == 0, made.output
    checked = CliRunner().invoke(app, ["world", "check", out, "--json"])
    assert '"apps":5' in checked.stdout
    assert '"sites":6' in checked.stdout


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("a file")
    with pytest.raises(WorldError, match=r"taken: cannot be written: "):
        write_world(make_problem(cities=2, apps=1), taken)
    assert taken.read_text() == "a file"
