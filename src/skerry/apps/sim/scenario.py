"""Scenarios as files: which world, what happens, what to expect. The format is in docs/howto/simulate.md."""

from collections.abc import Iterable
from pathlib import Path
from typing import cast

from skerry.adapters.tools import tree
from skerry.apps.sim.fields import Table, TomlFile
from skerry.core.types.problem import Problem
from skerry.core.worlds.faults import WorldError, meant, refuse, shown
from skerry.kit.record import Record
from skerry.testing.world.flows.story import EventKind, Happening, Pace, Story, VersionKind

MEASURES = (
    "refused_share", "mean_ms", "p50_ms", "p95_ms", "p99_ms", "moves", "recover_s", "refused_share_max", "gap",
    "rolled_back", "released", "demand_reached",
)  # fmt: skip
KINDS = ("lost", "nodes-lost", "slow", "demand", "deploy", "reboot", "cut-off", "shrink")
WITH_PLACES = frozenset(("lost", "nodes-lost", "slow", "demand", "reboot", "cut-off", "shrink"))
EVENTS_MAX = 1_000


class WorldWish(Record):
    """A directory, or a world to be made (see `skerry.adapters.worlds.make_problem`)."""

    directory: str | None = None
    cities: int = 340
    apps: int = 100
    seed: int = 1
    load: float = 0.5
    nodes_of_london: int = 20
    node_scale: float = 0.0625


class Expectation(Record):
    """`what` (of the platform's own method) is at most and at least this, give or take `tolerance` of it.

    `against`: the ratio to a baseline's, or to the best one's ("best"), is meant.
    """

    what: str
    at_most: float | None = None
    at_least: float | None = None
    tolerance: float = 0.0
    against: str = ""


class Scenario(Record):
    """A whole file. `name` is the file's, without its ending."""

    name: str
    about: str
    world: WorldWish
    story: Story
    expect: tuple[Expectation, ...]
    path: str


def scenarios_dir() -> Path:
    return tree() / "scenarios"


def shipped() -> list[Path]:
    """Those in the tree, by name."""
    return sorted(scenarios_dir().glob("*.toml"))


def find(name: str) -> Path:
    """A path, or the name of a shipped scenario. Raises `WorldError`."""
    path = Path(name)
    if path.suffix == ".toml" or path.is_file():
        return path
    named = scenarios_dir() / f"{name}.toml"
    if not named.is_file():
        raise WorldError(name, 0, "", f"is no scenario; {meant(name, [found.stem for found in shipped()])}")
    return named


def read(path: Path) -> Scenario:
    """Raises `WorldError` for the first thing that is wrong."""
    root = TomlFile(path).root
    duration_ms = root.duration_ms("duration", least_ms=1_000)
    about, seed = root.text("about"), root.whole("seed", 1)
    world = _world(root.table("world"))
    events = [_event(table, duration_ms) for table in root.tables("event")]
    if len(events) > EVENTS_MAX:
        root.refuse("event", f"has {len(events)} entries; at most {EVENTS_MAX}")
    day, start_hour, step_ms = _demand(root.table("demand"))
    pace = _pace(root.table("pace"))
    expect = tuple(_expectation(table) for table in root.tables("expect"))
    root.end()
    story = Story(
        duration_ms=duration_ms,
        events=tuple(sorted(events, key=lambda event: event.at_ms)),
        day=day,
        start_hour=start_hour,
        demand_step_ms=step_ms,
        seed=seed,
        pace=pace,
    )
    return Scenario(name=path.stem, about=about, world=world, story=story, expect=expect, path=str(path))


def check_names(scenario: Scenario, problem: Problem) -> None:
    """Every city, country, region and app that is named is in the world. Raises `WorldError`."""
    places = {"*"} | {site.id for site in problem.sites}
    places |= {f"country:{site.country}" for site in problem.sites} | {f"region:{site.region}" for site in problem.sites}
    apps = {"*", *(app.app for app in problem.apps)}
    for event in scenario.story.events:
        _known(scenario, event, "places", event.places, places)
        _known(scenario, event, "others", event.others, places)
        _known(scenario, event, "apps", event.apps, apps)


def _known(scenario: Scenario, event: Happening, field: str, names: Iterable[str], known: set[str]) -> None:
    for name in names:
        if name not in known:
            refuse(scenario.path, event.line, f"event.{field}", f"{shown(name)} is not in the world; {meant(name, known)}")


def _world(table: Table) -> WorldWish:
    plain = WorldWish()
    wish = WorldWish(
        directory=table.text("dir", "") or None,
        cities=table.whole("cities", plain.cities, least=1, most=340),
        apps=table.whole("apps", plain.apps, least=1, most=100_000),
        seed=table.whole("seed", plain.seed),
        load=table.number("load", plain.load, least=0.01, most=2.0),
        nodes_of_london=table.whole("nodes_of_london", plain.nodes_of_london, least=1, most=100_000),
        node_scale=table.number("node_scale", plain.node_scale, least=0.001, most=10.0),
    )
    table.end()
    return wish


def _demand(table: Table) -> tuple[bool, float, int]:
    found = (
        table.flag("day", False),
        table.number("start_hour", 0.0, least=0.0, most=24.0),
        table.duration_ms("step", "15m", least_ms=1_000),
    )
    table.end()
    return found


def _pace(table: Table) -> Pace:
    plain = Pace()
    times = {
        name: table.duration_ms(name, f"{getattr(plain, f'{name}_ms')}ms", least_ms=1)
        for name in (
            "heartbeat", "denied_after", "lost_after", "node_lost", "replan", "watch", "decide", "push", "start", "anycast",
            "check", "measured",
        )
    }  # fmt: skip
    headroom = table.number("headroom", plain.headroom, least=1.0, most=10.0)
    spill = table.flag("spill", plain.spill)
    table.end()
    return Pace(**{f"{name}_ms": value for name, value in times.items()}, headroom=headroom, spill=spill)


def _event(table: Table, duration_ms: int) -> Happening:
    kind = cast("EventKind", table.choice("kind", KINDS))
    at_ms = table.duration_ms("at")
    if at_ms >= duration_ms:
        table.refuse("at", f"is after the end of the scenario ({duration_ms / 1000:g} s)")
    event = Happening(
        kind=kind,
        line=table.line(),
        at_ms=at_ms,
        for_ms=table.duration_ms("for", least_ms=1) if kind not in ("deploy", "reboot") and table.has("for") else None,
        places=_places(table, "places") if kind in WITH_PLACES else (),
        others=_places(table, "others") if kind == "slow" else (),
        apps=_apps(table, kind),
        share=_share(table, kind),
        times=table.number("times", 1.0 if kind == "slow" else None, most=1_000.0) if kind in ("slow", "demand") else 1.0,
        add_ms=table.number("add_ms", 0.0, most=10_000.0) if kind == "slow" else 0.0,
        down_ms=table.duration_ms("down", "5m") if kind == "reboot" else 300_000,
        version=cast("VersionKind", table.choice("version", ("good", "crashes"), "good")) if kind == "deploy" else "good",
    )
    table.end()
    return event


def _places(table: Table, key: str) -> tuple[str, ...]:
    places = table.texts(key)
    if not places:
        table.refuse(key, "is empty; name sites, `country:GB`, `region:weur` or `*`")
    for place in places:
        kind, colon, _ = place.partition(":")
        if colon and kind not in ("country", "region"):
            table.refuse(key, f"{place!r} is no place; {meant(kind, ('country', 'region'))}")
    return places


def _apps(table: Table, kind: str) -> tuple[str, ...]:
    if kind == "deploy":
        return table.texts("apps")
    return table.texts("apps", ()) if kind == "demand" else ()


def _share(table: Table, kind: str) -> float:
    if kind in ("nodes-lost", "shrink", "reboot"):
        return table.number("share", least=0.001, most=1.0)
    return table.number("share", 0.0, most=1.0) if kind == "cut-off" else 0.0


def _expectation(table: Table) -> Expectation:
    what = table.choice("what", MEASURES)
    at_most = table.number("at_most", least=-1e12, most=1e12) if table.has("at_most") else None
    at_least = table.number("at_least", least=-1e12, most=1e12) if table.has("at_least") else None
    if at_most is None and at_least is None:
        table.refuse("what", "needs at_most or at_least")
    against = table.choice("against", ("", "best", "karmada", "nomad", "nearest", "everywhere"), "")
    found = Expectation(
        what=what, at_most=at_most, at_least=at_least, tolerance=table.number("tolerance", 0.0, most=10.0), against=against
    )
    table.end()
    return found
