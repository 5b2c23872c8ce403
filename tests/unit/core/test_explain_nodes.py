"""What is said of each node of a city: what the app asks of it, and what its versions' isolation asks besides."""

from msgspec.structs import replace

from skerry.core.placement.explain import explain
from skerry.core.placement.place import place
from skerry.core.placement.world import World
from skerry.core.types.app import Scale, Version
from skerry.core.types.ids import SiteId
from skerry.core.types.program import Program
from skerry.testing.builders import make_app, make_evaluation, make_node, make_version, make_view
from skerry.testing.programs import image

PROGRAM = Program(image=image("app"), port=80)
PLAIN = replace(make_version(1), program=PROGRAM, isolation="container")
STRICT = replace(make_version(2), program=PROGRAM, isolation="gvisor")
OFFERED = (("amd64", "container", "gvisor"), ("amd64", "container"), ())


def city() -> World:
    nodes = tuple(make_node(f"lhr-{n}", features=features) for n, features in enumerate(OFFERED, start=1))
    return World(sites=(replace(make_view("lhr"), nodes=nodes),))


def said_of(world: World, *versions: Version, scale: Scale | None = None) -> dict[str, str]:
    """By node, beside its room."""
    app = make_app(scale=scale)
    shares = tuple((version, 100.0 / len(versions)) for version in versions)
    plan = place(world, app, shares, evaluation=make_evaluation(), parent=None, now_ms=0)
    said = explain(app, plan, world, SiteId("lhr"), versions=versions)
    return {verdict.node: " ".join(verdict.reasons[1:]) for verdict in said.nodes}


def test_a_node_that_lacks_what_the_isolation_class_needs_says_so() -> None:
    said = said_of(city(), STRICT)
    assert said["lhr-1"] == ""
    assert "it lacks a feature that the app needs (needs amd64, gvisor; lacks gvisor)" in said["lhr-2"]
    assert "needs amd64, gvisor; lacks amd64, gvisor" in said["lhr-3"]


def test_what_the_app_asks_is_named_together_with_what_its_isolation_asks() -> None:
    said = said_of(city(), STRICT, scale=Scale(features=("gpu",)))
    assert "needs amd64, gpu, gvisor; lacks gpu)" in said["lhr-1"]


def test_of_two_versions_the_one_that_a_node_cannot_run_is_told() -> None:
    said = said_of(city(), PLAIN, STRICT)
    assert said["lhr-1"] == ""
    assert "a version needs amd64, gvisor; lacks gvisor" in said["lhr-2"]
    assert "(needs amd64, container; lacks amd64, container, gvisor)" in said["lhr-3"]


def test_a_worker_asks_nothing_of_a_node() -> None:
    assert set(said_of(city(), make_version(1)).values()) == {""}


def test_a_city_whose_nodes_lost_the_engine_says_so_since_the_plan() -> None:
    before = city()
    app, shares = make_app(), ((STRICT, 100.0),)
    plan = place(before, app, shares, evaluation=make_evaluation(), parent=None, now_ms=0)
    nodes = tuple(replace(node, features=("amd64",)) for node in before.sites[0].nodes)
    now = World(sites=(replace(before.sites[0], nodes=nodes, shapes=None),))
    (verdict,) = explain(app, plan, now, versions=(STRICT,)).verdicts
    assert any(reason.startswith("since then: it lacks") and "needs amd64, gvisor" in reason for reason in verdict.reasons)
