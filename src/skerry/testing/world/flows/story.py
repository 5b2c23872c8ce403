"""What happens in a run, as records. `skerry.apps.sim.scenario` reads them from files."""

from typing import Literal

from skerry.kit.record import Record

EventKind = Literal["lost", "nodes-lost", "slow", "demand", "deploy", "reboot", "cut-off", "shrink"]
VersionKind = Literal["good", "crashes"]


class Happening(Record):
    """One event. Places are site ids, `country:GB`, `region:weur` or `*`; empty where the kind needs none.

    lost: cities with all that is in them. nodes-lost: `share` of the nodes of each place. slow: round trips between `places`
    and `others` grow (`times`, `add_ms`). demand: of metros in `places`, `times` as much (of `apps`, or all). deploy: a version
    of `apps`. reboot: every node of `places` once, at most `share` of a city's and of all of these at a time,
    each for `down_ms`. cut-off: places keep serving, but control does not hear them. shrink: each node has `share` less.
    `line`: where it stands in its file.
    """

    kind: EventKind
    at_ms: int
    line: int = 0
    for_ms: int | None = None
    places: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    apps: tuple[str, ...] = ()
    share: float = 0.0
    times: float = 1.0
    add_ms: float = 0.0
    down_ms: int = 300_000
    version: VersionKind = "good"

    def title(self) -> str:
        """For people: "lost lhr"."""
        where = " ".join((*self.places, *(("and", *self.others) if self.others else ())))
        what = self.kind if self.kind != "deploy" else f"deploy ({self.version})"
        number = f" ×{self.times:g}" if self.times != 1.0 else f" {self.share:.0%}" if self.share else ""
        return f"{what}{number} {where}".strip()


class Pace(Record):
    """How fast the platform and its surroundings are; what is not the platform's own setting is an assumption of the model.

    `lost_after_ms`: until a silent city is given up; `denied_after_ms`: one that no other reaches.
    `replan_ms`: all apps are decided again; `watch_ms`: apps that lack capacity are. `anycast_ms`: until a lost city's users
    arrive elsewhere. `check_ms`: until an ingress knows that an instance is gone. `measured_ms`: until control's table
    has a changed round trip. `spill`: an ingress whose own instances are
    full sends on to the next city.
    """

    heartbeat_ms: int = 1_000
    denied_after_ms: int = 5_000
    lost_after_ms: int = 10_000
    node_lost_ms: int = 4_000
    replan_ms: int = 900_000
    watch_ms: int = 30_000
    decide_ms: int = 500
    push_ms: int = 500
    start_ms: int = 1_000
    anycast_ms: int = 5_000
    check_ms: int = 1_000
    measured_ms: int = 60_000
    headroom: float = 1.2
    spill: bool = True


class Story(Record):
    """`day`: demand follows the local hour of each metro, from `start_hour` (UTC) on; else it stays as the world has it."""

    duration_ms: int
    events: tuple[Happening, ...] = ()
    day: bool = False
    start_hour: float = 0.0
    demand_step_ms: int = 900_000
    seed: int = 1
    pace: Pace = Pace()
