"""Pure: what is new of the connections to public ports, as counts of requests.

A connection counts once when it begins, and for as long as it stays once more every `HELD_S`: somebody uses the app, and demand
has to know, or placement would take away what a database's clients are connected to.
"""

from skerry.adapters.ingress.haproxy.counting import Counting
from skerry.adapters.ingress.haproxy.layout import Door
from skerry.adapters.ingress.haproxy.tcp import DoorStatistics
from skerry.core.types.ids import AccountId, AppName

HELD_S = 10.0
Owner = tuple[AccountId, AppName]


class Connections:
    """Adds to a `Counting` what comes in by public ports."""

    def __init__(self, counting: Counting) -> None:
        self._counting = counting
        self._owners: dict[str, Owner] = {}
        self._last: dict[str, DoorStatistics] = {}
        self._failed: dict[str, int] = {}
        self._owed: dict[Owner, float] = {}  # parts of a request

    def own(self, doors: dict[str, Door]) -> None:
        """Whose they are. Those that were given up are known until the next worker."""
        self._owners |= {name: (door.account, door.app) for name, door in doors.items()}

    def skip(self, now: dict[str, DoorStatistics]) -> None:
        """What was counted before our time."""
        self._last = now

    def begin_anew(self, doors: dict[str, Door]) -> None:
        """A worker with these, that has counted nothing yet."""
        self._last, self._failed, self._owners = {}, {}, {}
        self.own(doors)

    def add(self, now: dict[str, DoorStatistics], failed: dict[str, int]) -> None:
        """All that is new since the last reading of the same worker. `failed`: those that reached nobody, by port's name."""
        for name, found in now.items():
            before = self._last.get(name, DoorStatistics())
            lost = max(0, failed.get(name, 0) - self._failed.get(name, 0))
            if name in self._owners:
                errors = max(0, found.refused - before.refused) + lost
                self._counting.more(self._owners[name], max(0, found.asked - before.asked), errors)
            for server, (took, broke) in found.servers.items():
                took_before, broke_before = before.servers.get(server, (0, 0))
                self._counting.more_of(server, max(0, took - took_before), max(0, broke - broke_before))
        self._last = {name: _highest(self._last.get(name), found) for name, found in now.items()}
        self._failed = {**self._failed, **failed}

    def hold(self, held: dict[str, int], *, seconds: float) -> None:
        """`held` connections were open for so long, by port's name."""
        open_now: dict[Owner, int] = {}
        for name in held.keys() & self._owners.keys():
            open_now[self._owners[name]] = open_now.get(self._owners[name], 0) + held[name]
        owed = {owner: self._owed.get(owner, 0.0) + count * seconds / HELD_S for owner, count in open_now.items() if count}
        for owner, amount in owed.items():
            self._counting.more(owner, int(amount), 0)
        self._owed = {owner: amount % 1.0 for owner, amount in owed.items()}


def _highest(before: DoorStatistics | None, now: DoorStatistics) -> DoorStatistics:
    """A connection that is being tried again is taken off its server, and would be counted there twice."""
    if before is None:
        return now
    servers = {
        name: (max(took, before.servers.get(name, (0, 0))[0]), max(broke, before.servers.get(name, (0, 0))[1]))
        for name, (took, broke) in now.servers.items()
    }
    return DoorStatistics(asked=now.asked, refused=now.refused, open=now.open, servers=servers)
