"""Where users are, and when: users of each edge city by country and time zone, and how active they are in an hour.

users(place) = people × share of its country that is online; every place belongs to the edge city with the lowest round
trip. The table ships with the package (`data/metro-users.csv`; `data/README.md` says what it was made of).
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skerry.core.geo.rtt import Points, modelled_rtts_ms
from skerry.kit.record import Record

Floats = NDArray[np.float64]

# Share of the evening's peak, by local hour. Made by hand after the daily curves that internet exchanges publish: the
# least at five in the morning, a plateau over the working day, the most at nine in the evening.
HOURLY = (
    0.62, 0.49, 0.40, 0.35, 0.32, 0.31, 0.34, 0.42, 0.53, 0.62, 0.67, 0.70,
    0.72, 0.73, 0.74, 0.76, 0.79, 0.83, 0.88, 0.94, 0.98, 1.00, 0.93, 0.78,
)  # fmt: skip
HOURS = 24.0
PLACES_AT_ONCE = 2048  # rows of a table of places × cities, 5 MiB each for 340 cities


class MetroUsers(Record):
    """So many users of `country` have `metro` as their nearest edge city, in one time zone (standard time)."""

    metro: str
    country: str
    utc_offset_hours: float
    users: int


class PopulatedPlace(Record):
    """A town: `utc_offset_hours` is that of its standard time."""

    lat: float
    lon: float
    country: str
    population: int
    utc_offset_hours: float


@dataclass(frozen=True)
class Audience:
    """Users of each metro, and what part of them is at home in the metro's own country."""

    total: Floats
    domestic: Floats
    _metro: NDArray[np.int64]
    _offset_hours: Floats
    _users: Floats

    @staticmethod
    def of(metros: Sequence[tuple[str, str]], table: Iterable[MetroUsers]) -> "Audience":
        """`metros` are (code, country); rows of other metros are left out."""
        index = {code: at for at, (code, _) in enumerate(metros)}
        rows = [row for row in table if row.metro in index]
        metro = np.array([index[row.metro] for row in rows], dtype=np.int64)
        users = np.array([row.users for row in rows], dtype=np.float64)
        at_home = np.array([row.country == metros[index[row.metro]][1] for row in rows], dtype=np.float64)
        count = len(metros)
        return Audience(
            total=_sums(metro, users, count),
            domestic=_sums(metro, users * at_home, count),
            _metro=metro,
            _offset_hours=np.array([row.utc_offset_hours for row in rows], dtype=np.float64),
            _users=users,
        )

    def active(self, utc_hour: float) -> Floats:
        """Users of each metro weighted by how active their hour is (1 on the day's mean)."""
        weight = activity((self._offset_hours + utc_hour) % HOURS)
        return _sums(self._metro, self._users * weight, len(self.total))

    def peak_hour(self) -> int:
        """The hour (UTC) at which most of them are active; the earliest of equals."""
        return int(np.argmax([float(self.active(hour).sum()) for hour in range(int(HOURS))]))


def activity(local_hour: Floats) -> Floats:
    """How active users are at their local hour (0 to 24, fractions allowed): 1 is the mean of the day."""
    curve = np.array((*HOURLY, HOURLY[0])) / float(np.mean(HOURLY))
    return np.interp(local_hour % HOURS, np.arange(len(curve)), curve)


def parse_users_csv(lines: Iterable[str]) -> tuple[MetroUsers, ...]:
    """From `metro-users.csv` (columns metro, country, utc_offset_hours, users)."""
    return tuple(
        MetroUsers(
            metro=row["metro"],
            country=row["country"],
            utc_offset_hours=float(row["utc_offset_hours"]),
            users=int(row["users"]),
        )
        for row in csv.DictReader(lines)
    )


def format_users_csv(table: Sequence[MetroUsers]) -> str:
    lines = [f"{row.metro},{row.country},{row.utc_offset_hours:g},{row.users}" for row in table]
    return "\n".join(("metro,country,utc_offset_hours,users", *lines, ""))


def users_by_metro(
    places: Sequence[PopulatedPlace],
    metros: Sequence[str],
    where: Points,
    online: Mapping[str, float],
    people: Mapping[str, int],
) -> tuple[MetroUsers, ...]:
    """Attach every place to its nearest metro.

    `where` are the metros' positions, `online` the share of a country's people that use the internet, `people` how many a
    country has: lists of towns count districts beside their city, so that all towns of a country are scaled down to its
    people where they exceed them.
    """
    listed: dict[str, int] = {}
    for place in places:
        listed[place.country] = listed.get(place.country, 0) + place.population
    sums: dict[tuple[str, str, float], float] = {}
    for start in range(0, len(places), PLACES_AT_ONCE):
        part = places[start : start + PLACES_AT_ONCE]
        nearest = np.argmin(modelled_rtts_ms(Points.of(part), where), axis=1)
        for place, metro in zip(part, (int(at) for at in nearest), strict=True):
            shrink = min(1.0, people.get(place.country, listed[place.country]) / max(1, listed[place.country]))
            key = (metros[metro], place.country, place.utc_offset_hours)
            sums[key] = sums.get(key, 0.0) + place.population * shrink * online[place.country]
    rows = sorted((key, round(users)) for key, users in sums.items())
    return tuple(
        MetroUsers(metro=metro, country=country, utc_offset_hours=offset, users=users)
        for (metro, country, offset), users in rows
        if users > 0
    )


def _sums(index: NDArray[np.int64], amounts: Floats, count: int) -> Floats:
    sums = np.zeros(count)
    np.add.at(sums, index, amounts)
    return sums
