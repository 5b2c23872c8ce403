"""Pure: what HAProxy counts by itself, in two stick tables, and what of that is new.

    asked    by app slot, users' requests       http_req_cnt requests, gpc0 5xx
    served   by instance, its answers           gpc0 answers, gpc1 5xx, gpc2 ms until they began, added up

An entry goes when nobody has asked for a minute, so reading costs nothing for idle apps.

A worker that is told to stop empties its tables at once, but its statistics stay as long as it lives. So what came between
the last reading and that moment is taken from them: all requests of a slot, less those that came back through the loop.
(Those of other sites, in that tenth of a second, look like users'.) They also tell what servers broke off.
"""

import msgspec

from skerry.adapters.ingress.haproxy.layout import LOOP, Assignment, app_backend
from skerry.adapters.ingress.haproxy.settings import Limits
from skerry.adapters.ingress.haproxy.statistics import stat_rows
from skerry.core.types.ids import AccountId, AppName, InstanceId
from skerry.kit.record import Record
from skerry.ports.ingress import AppCount, Counts, InstanceCount

ASKED, SERVED = "asked", "served"
_BEGAN = "txn.began"
_COUNTERS = 3
_WRAP = 1 << 32  # of a counter

ERRORS_OF_APPS = "http-after-response sc-inc-gpc(0,0) if { status ge 500 }"


def tables(limits: Limits) -> list[str]:
    """Sections of the configuration. Sizes bound the memory; entries are allocated as they come."""
    kept = f"expire {limits.counted_s}s"
    return [
        f"backend {ASKED} from base\n  stick-table type string len 16 size {limits.slots_max} {kept} store http_req_cnt,gpc(1)",
        f"backend {SERVED} from base\n  stick-table type string len 64 size {2 * limits.slots_max} {kept} store gpc({_COUNTERS})",
    ]


def of_apps(condition: str = "") -> list[str]:
    """Rules of a frontend, where the slot is known."""
    return [f"http-request track-sc0 var(txn.slot) table {ASKED}{f' if {condition}' if condition else ''}"]


def of_instances(own: str) -> list[str]:
    """Rules of an app's slot; `own` is the condition that a server is none of the loop's."""
    return [
        f"http-request set-var({_BEGAN}) date(0,ms)",
        f"http-response track-sc1 srv_name table {SERVED} {own}",
        "http-response sc-inc-gpc(0,1)",
        "http-response sc-inc-gpc(1,1) if { status ge 500 }",
        f"http-response sc-add-gpc(2,1) date(0,ms),sub({_BEGAN})",
    ]


def show(table: str) -> str:
    """The runtime command that reads it."""
    return f"show table {table}"


def parse_table(answer: str) -> dict[str, tuple[int, ...]]:
    """Key to its counters, in the order they are stored."""
    found: dict[str, tuple[int, ...]] = {}
    for line in answer.splitlines():
        fields = [field.partition("=") for field in line.split()[1:]]
        named = {name: value for name, _, value in fields}
        if "key" in named:
            stored = [value for name, _, value in fields if name == "http_req_cnt" or name.startswith("gpc")]
            found[named["key"]] = tuple(int(value) for value in stored)
    return found


class SlotStatistics(Record):
    """Of one app slot: requests that came to it, and by server (answers, 5xx, what did not become an answer)."""

    requests: int
    servers: dict[str, tuple[int, int, int]]


class Reading(Record):
    """Both tables of a worker at one moment, and the statistics of some slots."""

    asked: dict[str, tuple[int, ...]] = msgspec.field(default_factory=dict[str, tuple[int, ...]])
    served: dict[str, tuple[int, ...]] = msgspec.field(default_factory=dict[str, tuple[int, ...]])
    slots: dict[str, SlotStatistics] = msgspec.field(default_factory=dict[str, SlotStatistics])


def show_slot(slot: str) -> str:
    """The runtime command for a slot's statistics and its servers'."""
    return f"show stat {slot} 6 -1"


def parse_slot(answer: str) -> SlotStatistics:
    """CSV with a header line that starts with "# "; empty statistics when it is none."""
    requests, servers = 0, dict[str, tuple[int, int, int]]()
    for row in stat_rows(answer):
        total, now = int(row.get("stot") or 0), int(row.get("scur") or 0)
        if row.get("svname") == "BACKEND":
            requests += total
        elif row.get("svname", LOOP).startswith(LOOP):
            requests -= total
        else:
            answers = sum(int(row.get(f"hrsp_{kind}") or 0) for kind in ("1xx", "2xx", "3xx", "4xx", "5xx", "other"))
            servers[row["svname"]] = (answers, int(row.get("hrsp_5xx") or 0), max(0, total - now - answers))
    return SlotStatistics(requests=max(0, requests), servers=servers)


class Counting:
    """Sums up readings until they are taken."""

    def __init__(self) -> None:
        self._owners: dict[str, tuple[AccountId, AppName]] = {}
        self._last = Reading()
        self._apps: dict[tuple[AccountId, AppName], list[int]] = {}
        self._instances: dict[str, list[int]] = {}

    def own(self, assignment: Assignment) -> None:
        """Whose the slots are from now on. One that is given up stays its last owner's until it is another's."""
        for owner, slot in assignment.apps.items():
            account, _, app = owner.partition("/")
            self._owners[app_backend(slot)] = (AccountId(account), AppName(app))

    def owned(self, assignment: Assignment) -> bool:
        """Whether every slot is whose it was."""
        return all(self._owners.get(app_backend(slot)) == tuple(owner.split("/", 1)) for owner, slot in assignment.apps.items())

    def troubled(self, reading: Reading) -> list[str]:
        """Slots whose users got errors since the last reading: ask what their servers broke off."""
        return [
            slot
            for slot, counters in sorted(reading.asked.items())
            if slot in self._owners and _new(counters, self._last.asked.get(slot))[1] > 0
        ]

    def skip(self, reading: Reading) -> None:
        """What was counted before our time."""
        self._last = reading

    def begin_anew(self) -> None:
        """A worker that has counted nothing yet."""
        self._last = Reading()

    def add(self, reading: Reading) -> None:
        """All that is new since the last reading of the same worker."""
        for slot, counters in reading.asked.items():
            if slot in self._owners:
                _sum(self._apps.setdefault(self._owners[slot], [0, 0]), _new(counters, self._last.asked.get(slot)))
        for name, counters in reading.served.items():
            _sum(self._of(name), _new(counters, self._last.served.get(name)))
        for slot, statistics in reading.slots.items():
            before = self._last.slots.get(slot)
            for name, now in statistics.servers.items():
                broken = _new(now, before.servers.get(name) if before else None)[2]
                _sum(self._of(name), (broken, broken))
        self._last = msgspec.structs.replace(reading, slots={**self._last.slots, **reading.slots})

    def add_last(self, slots: dict[str, SlotStatistics]) -> None:
        """What a worker did between its last reading and its end. Its tables are gone by then."""
        for slot, statistics in slots.items():
            before = self._last.slots.get(slot) or SlotStatistics(requests=0, servers={})
            if slot in self._owners:
                _sum(self._apps.setdefault(self._owners[slot], [0, 0]), (max(0, statistics.requests - before.requests), 0))
            for name, now in statistics.servers.items():
                answers, errors, broken = _new(now, before.servers.get(name))
                _sum(self._of(name), (answers + broken, errors + broken))
        self.begin_anew()

    def more(self, owner: tuple[AccountId, AppName], requests: int, errors: int) -> None:
        """Of an app, counted elsewhere."""
        _sum(self._apps.setdefault(owner, [0, 0]), (requests, errors))

    def more_of(self, instance: str, requests: int, errors: int) -> None:
        """Of an instance, counted elsewhere."""
        _sum(self._of(instance), (requests, errors))

    def take(self) -> Counts:
        """Everything summed up since the last call."""
        apps, self._apps = self._apps, {}
        instances, self._instances = self._instances, {}
        return Counts(
            apps=tuple(
                AppCount(account=account, app=app, requests=requests, errors=errors)
                for (account, app), (requests, errors) in sorted(apps.items())
                if requests or errors
            ),
            instances=tuple(
                InstanceCount(instance=InstanceId(name), requests=row[0], errors=row[1], latency_ms_sum=row[2])
                for name, row in sorted(instances.items())
                if any(row)
            ),
        )

    def _of(self, name: str) -> list[int]:
        assert not name.startswith(LOOP)
        return self._instances.setdefault(name, [0] * _COUNTERS)


def _new(now: tuple[int, ...], before: tuple[int, ...] | None) -> tuple[int, ...]:
    """What was added. Requests that fell were forgotten meanwhile, and began again; a sum of times may have gone round."""
    if before is None or now[0] < before[0] or now[1] < before[1]:
        return now
    return tuple((a - b) % _WRAP for a, b in zip(now, before, strict=True))


def _sum(row: list[int], more: tuple[int, ...]) -> None:
    for index, value in enumerate(more):
        row[index] += value
