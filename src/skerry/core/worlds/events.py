"""Events: what changes in a world between two plans, in a few words such as `site-lost lhr`."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from skerry.core.types.place import PlaceState
from skerry.core.types.problem import Demand, Problem
from skerry.core.worlds.applines import RPS_MAX
from skerry.core.worlds.faults import meant, refuse, shown


@dataclass(frozen=True)
class _Event:
    words: str
    apply: Callable[[Problem, list[str]], Problem]


def apply_event(problem: Problem, text: str) -> Problem:
    """The world after the event. Raises `WorldError` that names the event and what is allowed."""
    kind, *words = text.split() or [""]
    event = EVENTS.get(kind)
    if event is None:
        known = "; ".join(f"{name} {found.words}" for name, found in EVENTS.items())
        refuse("--event", 0, shown(text), f"is no event; {meant(kind, EVENTS)}; allowed: {known}")
    if len(words) != len(event.words.split()):
        refuse("--event", 0, shown(text), f"has {len(words)} words after {kind}; it is: {kind} {event.words}")
    return event.apply(problem, words)


def _with_state(state: PlaceState) -> Callable[[Problem, list[str]], Problem]:
    def apply(problem: Problem, words: list[str]) -> Problem:
        at = _index("site", words[0], {site.id: at for at, site in enumerate(problem.sites)})
        sites = list(problem.sites)
        sites[at] = msgspec.structs.replace(sites[at], state=state)
        return replace(problem, sites=tuple(sites))

    return apply


def _demand(problem: Problem, words: list[str]) -> Problem:
    app = _index("app", words[0], {app.app: at for at, app in enumerate(problem.apps)})
    metro = _index("metro", words[1], {metro.id: at for at, metro in enumerate(problem.metros)})
    rps = _number(words[2])
    old = problem.demand
    metros, amounts = old.of(app)
    kept = metros != metro
    new_metros, new_rps = np.append(metros[kept], metro), np.append(amounts[kept], rps)
    there = np.flatnonzero(new_rps > 0.0)
    there = there[np.argsort(new_metros[there], kind="stable")]
    begin, end = int(old.start[app]), int(old.start[app + 1])
    start = old.start.copy()
    start[app + 1 :] += len(there) - (end - begin)
    return replace(
        problem,
        demand=Demand(
            start=start,
            metro=np.concatenate((old.metro[:begin], new_metros[there], old.metro[end:])).astype(np.int32),
            rps=np.concatenate((old.rps[:begin], new_rps[there], old.rps[end:])),
        ),
    )


EVENTS: Mapping[str, _Event] = {
    "site-lost": _Event("SITE", _with_state("down")),
    "site-draining": _Event("SITE", _with_state("draining")),
    "site-cut-off": _Event("SITE", _with_state("cut_off")),
    "site-back": _Event("SITE", _with_state("up")),
    "demand": _Event("APP METRO RPS", _demand),
}


def _index(kind: str, name: str, known: Mapping[str, int]) -> int:
    if name not in known:
        refuse("--event", 0, kind, f"{shown(name)} is no {kind} of this world; {meant(name, known)}")
    return known[name]


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 <= value <= RPS_MAX:
        refuse("--event", 0, "rps", f"{shown(text)} is not allowed; allowed: 0 to {RPS_MAX:g} requests per second")
    return value
