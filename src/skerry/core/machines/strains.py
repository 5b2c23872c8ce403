"""Which of its limits an instance has come to: what is seen of it in, what is told of it out. Pure; time is a value.

A limit that it came to is told for a while longer, so that whoever looks finds the reason of what he saw a moment ago.
"""

from collections.abc import Iterator

import msgspec

from skerry.core.types.strain import Limit, Strain
from skerry.kit.record import Record


class StrainSettings(Record):
    """`cpu_percent`: of the time of a window in which its CPU limit held something of it back."""

    told_ms: int = 300_000
    cpu_window_ms: int = 10_000
    cpu_percent: int = 20
    full_percent: int = 99


class Seen(Record):
    """One look. Counters grow in the life of one process; a maximum of 0: it cannot be told. `log_lost`: lines of it, since the
    last look. `ran_out`: its process has just ended for lack of memory."""

    memory_mib_max: int
    pids_max: int
    cpu_millicores_max: int
    forks_refused: int = 0
    oom_kills: int = 0
    throttled_us: int = 0
    disk_bytes: int = 0
    disk_bytes_max: int = 0
    disk_files: int = 0
    disk_files_max: int = 0
    descriptors: int = 0
    descriptors_max: int = 0
    log_lost: bool = False
    ran_out: bool = False


class Told(Record):
    strain: Strain
    last_ms: int  # when it was seen last


class Strained(Record):
    """What is kept from look to look."""

    told: tuple[Told, ...] = ()
    forks_refused: int = 0
    oom_kills: int = 0
    window_ms: int = 0  # when the window began; 0: none has
    window_throttled_us: int = 0

    @property
    def strains(self) -> tuple[Strain, ...]:
        return tuple(one.strain for one in self.told)

    def since(self, before: "Strained") -> tuple[Strain, ...]:
        """Those that are new."""
        return tuple(strain for strain in self.strains if strain not in before.strains)


def adopted(seen: Seen) -> Strained:
    """Of a process that an earlier agent looked after: what it counted so far was told then."""
    return Strained(forks_refused=seen.forks_refused, oom_kills=seen.oom_kills)


def look(before: Strained, seen: Seen, now_ms: int, settings: StrainSettings) -> Strained:
    told = {one.strain.limit: one for one in before.told if now_ms - one.last_ms < settings.told_ms}
    for limit, text in _found(before, seen, now_ms, settings):
        since_ms = told[limit].strain.since_ms if limit in told else now_ms
        told[limit] = Told(strain=Strain(limit=limit, since_ms=since_ms, text=text), last_ms=now_ms)
    return msgspec.structs.replace(
        _window(before, seen, now_ms, settings),
        told=tuple(told[limit] for limit in sorted(told)),
        forks_refused=seen.forks_refused,
        oom_kills=seen.oom_kills,
    )


def _found(before: Strained, seen: Seen, now_ms: int, settings: StrainSettings) -> Iterator[tuple[Limit, str]]:
    if seen.ran_out or seen.oom_kills > before.oom_kills:
        yield "memory", f"out of memory: what it takes above {seen.memory_mib_max} MiB is ended"
    if seen.forks_refused > before.forks_refused:
        yield "processes", f"it has all the processes that it may ({seen.pids_max}): starting more of them fails"
    if _full(seen.disk_bytes, seen.disk_bytes_max, settings):
        yield "disk", f"its disk is full ({seen.disk_bytes_max >> 20} MiB): writing fails"
    elif _full(seen.disk_files, seen.disk_files_max, settings):
        yield "disk", f"its disk has no room for more than {seen.disk_files_max} files: making more fails"
    if _full(seen.descriptors, seen.descriptors_max, settings):
        yield "descriptors", f"a process of it has all the files open that it may ({seen.descriptors_max}): opening more fails"
    if seen.log_lost:
        yield "log", "it writes its log faster than its node keeps it: lines of it are lost"
    if _held(before, seen, now_ms, settings):
        yield "cpu", f"its CPU limit of {seen.cpu_millicores_max} m holds it back: it would use more"


def _full(used: int, most: int, settings: StrainSettings) -> bool:
    return most > 0 and used * 100 >= most * settings.full_percent


def _held(before: Strained, seen: Seen, now_ms: int, settings: StrainSettings) -> bool:
    elapsed_ms = now_ms - before.window_ms
    if not before.window_ms or elapsed_ms < settings.cpu_window_ms:
        return False
    return (seen.throttled_us - before.window_throttled_us) * 100 >= elapsed_ms * 1000 * settings.cpu_percent


def _window(before: Strained, seen: Seen, now_ms: int, settings: StrainSettings) -> Strained:
    """The next one begins where this one is over, with each new process, and when nobody but itself holds it any more."""
    over = not before.window_ms or now_ms - before.window_ms >= settings.cpu_window_ms
    if over or seen.throttled_us < before.window_throttled_us:
        return msgspec.structs.replace(before, window_ms=now_ms, window_throttled_us=seen.throttled_us)
    return before
