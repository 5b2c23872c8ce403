"""Apps of a made world: what they ask for, who uses them and which data they call.

Nobody publishes such a mix either. It is made so that every rule of placement is used by some apps: a quarter serve the whole
world, a third a region, the rest a country or one city; popularity follows Zipf's law.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from skerry.core.types.app import DataCalls, RegionMin
from skerry.core.types.problem import ProblemApp, ProblemData, ProblemSite
from skerry.core.types.resources import Resources
from skerry.kit.draws import Draws

Floats = NDArray[np.float64]

KINDS = (("global", 0.25), ("region", 0.35), ("country", 0.25), ("city", 0.15))
ZIPF = 0.9  # exponent of popularity over rank
SHAPES = (  # cpu_millicores, memory_mib, disk_mib, requests per second of one instance, share of apps
    (50, 64, 16, 40.0, 0.20),
    (100, 128, 64, 80.0, 0.30),
    (250, 256, 128, 150.0, 0.20),
    (500, 512, 512, 250.0, 0.15),
    (1000, 1024, 1024, 400.0, 0.08),
    (1000, 4096, 4096, 200.0, 0.04),
    (4000, 8192, 16384, 900.0, 0.03),
)
OBJECTIVES_MS = (30.0, 50.0, 80.0, 120.0, 200.0)
METROS_LEAST = 4  # in which an app has demand
HOME_PART = 0.9  # of a regional app's demand is at home
FAR_METROS = 12  # where the rest is


@dataclass(frozen=True)
class Mix:
    """Columns of all apps, by index: drawn at once, so that one app is a function of seed and index."""

    apps: tuple[ProblemApp, ...]
    data: tuple[ProblemData, ...]
    popularity: Floats  # adds up to 1
    kind: NDArray[np.int64]  # index in KINDS
    anchor: NDArray[np.int64]  # the metro that the app's home is in


def make_mix(draws: Draws, count: int, sites: Sequence[ProblemSite], users: Floats, shared: float = 0.0) -> Mix:
    """`users` are per site's city and weigh where apps are at home. `shared`: the part of apps that call data of another, too."""
    kind = choose(draws.uniform("kind", count), np.array([part for _, part in KINDS]))
    anchor = choose(draws.uniform("anchor", count), users)
    rank = np.argsort(np.argsort(draws.uniform("rank", count), kind="stable"), kind="stable")
    popularity = 1.0 / (rank + 1.0) ** ZIPF
    maker = _Maker(draws, count, sites, kind, anchor)
    made = [maker.app(index) for index in range(count)]
    return Mix(
        apps=_sharing(draws, made, shared),
        data=tuple(item for _, items in made for item in items),
        popularity=popularity / popularity.sum(),
        kind=kind,
        anchor=anchor,
    )


def choose(uniform: Floats, weight: Floats) -> NDArray[np.int64]:
    """An index per uniform number, in proportion to the weights."""
    edges = np.cumsum(weight) / np.sum(weight)
    return np.minimum(np.searchsorted(edges, uniform), len(weight) - 1).astype(np.int64)


def _sharing(draws: Draws, made: Sequence[tuple[ProblemApp, tuple[ProblemData, ...]]], part: float) -> tuple[ProblemApp, ...]:
    """Some apps call the first datum of the last app before them that has any."""
    drawn, calls = draws.uniform("shares", len(made)), draws.uniform("shared-calls", len(made))
    found: list[ProblemApp] = []
    last: ProblemData | None = None
    for index, (app, data) in enumerate(made):
        if last is not None and drawn[index] < part:
            call = DataCalls(data=last.data, per_request=float(f"{_calls(calls[index]):.3g}"))
            found.append(msgspec.structs.replace(app, calls=(*app.calls, call)))
        else:
            found.append(app)
        last = data[0] if data else last
    return tuple(found)


def _calls(drawn: float) -> float:
    return 0.2 * 25.0**drawn  # 0.2 to 5


class _Maker:
    def __init__(
        self, draws: Draws, count: int, sites: Sequence[ProblemSite], kind: NDArray[np.int64], anchor: NDArray[np.int64]
    ) -> None:
        names = (
            "priority", "late", "objective", "losses", "jurisdiction", "lists", "listed", "limits", "features", "data", "calls",
            "size", "movable",
        )  # fmt: skip
        self._drawn = {name: draws.uniform(name, count) for name in names}
        self._shape = choose(draws.uniform("shape", count), np.array([share for *_, share in SHAPES]))
        self._sites, self._kind, self._anchor = sites, kind, anchor
        self._tags = {tag for site in sites for tag in (*site.jurisdictions, *site.features)}
        self._regions = sorted({site.region for site in sites})
        self._in_union = sum("eu" in site.jurisdictions for site in sites)

    def app(self, index: int) -> tuple[ProblemApp, tuple[ProblemData, ...]]:
        home = self._sites[int(self._anchor[index])]
        cpu, memory, disk, rps, _ = SHAPES[int(self._shape[index])]
        jurisdiction = self._jurisdiction(index, home)
        data = self._data(index, jurisdiction)
        survive = self._survive(index, jurisdiction)
        allow, deny = self._lists(index, home, jurisdiction)
        made = ProblemApp(
            app=f"app-{index:06d}",
            reserve=Resources(cpu_millicores=cpu, memory_mib=memory, disk_mib=disk),
            rps_per_instance=rps,
            priority=(20, 50, 80)[int(choose(self._drawn["priority"][index : index + 1], np.array([0.15, 0.75, 0.10]))[0])],
            min_total=1 + survive,
            region_min=self._region_min(index, jurisdiction),
            allow=allow,
            deny=deny,
            jurisdiction=jurisdiction,
            features=("kvm",) if self._draw("features", index) < 0.05 and "kvm" in self._tags else (),
            latency_objective_ms=self._objective(index),
            survive_sites=survive,
            calls=tuple(DataCalls(data=item.data, per_request=self._per_request(index, at)) for at, item in enumerate(data)),
        )
        return made, data

    def _draw(self, name: str, index: int) -> float:
        return float(self._drawn[name][index])

    def _jurisdiction(self, index: int, home: ProblemSite) -> str | None:
        local = KINDS[int(self._kind[index])][0] != "global"
        return "eu" if local and "eu" in home.jurisdictions and self._draw("jurisdiction", index) < 0.3 else None

    def _survive(self, index: int, jurisdiction: str | None) -> int:
        asked = int(np.searchsorted([0.7, 0.95], self._draw("losses", index)))
        room = (self._in_union if jurisdiction else len(self._sites)) - 1
        return max(0, min(asked, room // 2))

    def _objective(self, index: int) -> float | None:
        if self._draw("late", index) >= 0.3:
            return None
        return OBJECTIVES_MS[min(len(OBJECTIVES_MS) - 1, int(self._draw("objective", index) * len(OBJECTIVES_MS)))]

    def _lists(self, index: int, home: ProblemSite, jurisdiction: str | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """A few apps deny another country; fewer allow but their home's region and another one."""
        drawn, other = self._draw("lists", index), int(self._draw("listed", index) * len(self._sites))
        if drawn < 0.05 and self._sites[other].country != home.country:
            return (), (f"country:{self._sites[other].country}",)
        if 0.05 <= drawn < 0.08 and jurisdiction is None:
            both = {home.region, self._regions[other % len(self._regions)]}
            return tuple(f"region:{region}" for region in sorted(both)), ()
        return (), ()

    def _region_min(self, index: int, jurisdiction: str | None) -> tuple[RegionMin, ...]:
        if self._draw("limits", index) >= 0.03 or jurisdiction or self._draw("lists", index) < 0.08:
            return ()
        return tuple(RegionMin(region=region, count=1) for region in self._regions[:3])

    def _data(self, index: int, jurisdiction: str | None) -> tuple[ProblemData, ...]:
        """None, one or two, at the app's anchor (inside its jurisdiction, since the anchor is)."""
        number = int(np.searchsorted([0.6, 0.92], self._draw("data", index)))
        size = 10.0 ** (3.0 * self._draw("size", index) - 1.0)  # 100 MiB to 100 GiB
        return tuple(
            ProblemData(
                data=f"data-{index:06d}-{at}",
                home=self._sites[int(self._anchor[index])].id,
                movable=self._draw("movable", index) < 0.7,
                size_gib=float(f"{size / (at + 1):.3g}"),
                jurisdiction=jurisdiction,
            )
            for at in range(number)
        )

    def _per_request(self, index: int, at: int) -> float:
        return float(f"{_calls(self._draw('calls', index)) / (at + 1):.3g}")
