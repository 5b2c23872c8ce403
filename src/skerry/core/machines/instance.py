"""The life of one instance, without I/O: events in, commands out, time as a value.

```
             ready              quiet             activity
 starting ----------> running ----------> asleep ----------> running
  ^  |  \\                |  ^-- restart --|
  |  |   \\ own fault     | crash
  |  |    v              v
  |  |   failed      starting (first crash in a while) or backoff (the next ones) --due--> starting
  |  +-- crash, or files that cannot be had -----> backoff
  |
 dead <--- dropped --- running, asleep            any ---stop---> stopping
           running, asleep <--- resumed / paused ---> paused
```

A program's restart policy may end it instead: `done` after an exit with status 0, `failed` after another.

Whoever drives it owns the listening socket: a request that comes while the instance is starting or dead waits in its
backlog, and is refused (503) while `Refuse` is in force.
"""

from collections.abc import Callable

import msgspec

from skerry.core.types.program import RestartPolicy
from skerry.core.types.slices import InstanceState
from skerry.kit.record import Record


class Backoff(Record):
    """How long to wait before a restart. A run of `healthy_after_ms` makes earlier crashes forgotten.

    `lack_ms_max`: the cap where nothing crashed, but files cannot be had: whoever keeps them is soon back.
    """

    first_ms: int = 250
    factor: int = 2
    max_ms: int = 30_000
    healthy_after_ms: int = 10_000
    lack_ms_max: int = 2_000

    def delay_ms(self, crashes: int) -> int:
        """0 for the first crash in a row, then doubling up to the cap."""
        if crashes <= 1:
            return 0
        return min(self.max_ms, self._doubled(crashes - 2))

    def lack_ms(self, lacks: int) -> int:
        """After so many tries in a row, 1 for the first."""
        return min(self.lack_ms_max, self._doubled(lacks - 1))

    def _doubled(self, times: int) -> int:
        return self.first_ms * self.factor ** min(times, 32)  # 2^32 times anything is over the cap


class Life(Record):
    """Where an instance is. `crashes` counts those in a row, `restarts` all of them, `lacks` tries in a row without its files.
    `restart` never changes."""

    state: InstanceState
    since_ms: int
    restart: RestartPolicy = "always"
    ready_ms: int = 0  # when its process last became ready
    crashes: int = 0
    restarts: int = 0
    lacks: int = 0
    detail: str = ""


class Launched(Record, tag=True):
    """It has to run: a new instance, or a failed one that is tried again."""


class Ready(Record, tag=True):
    """It answers its health check."""


class Exited(Record, tag=True):
    """Its process ended by itself. `own_fault`: the code cannot start, and never will. `code`: its status, None if not known."""

    reason: str
    own_fault: bool = False
    code: int | None = None


class Lacking(Record, tag=True):
    """What it is started from cannot be had now. Nothing ran, so nothing crashed: it says nothing about the version."""

    reason: str


class Due(Record, tag=True):
    """The delay that `Wait` asked for is over."""


class Squeezed(Record, tag=True):
    """Nothing ran for a while, and its memory was moved out."""


class Activity(Record, tag=True):
    """It used CPU again."""


class Dropped(Record, tag=True):
    """It was decided to end its process until somebody asks for it."""

    reason: str


class Paused(Record, tag=True):
    """It was frozen, by somebody's word."""


class Resumed(Record, tag=True):
    """It goes on where it was."""


class Demand(Record, tag=True):
    """A request waits at the listener."""


class Stop(Record, tag=True):
    """It has to go."""


Event = Launched | Ready | Exited | Lacking | Due | Squeezed | Activity | Dropped | Paused | Resumed | Demand | Stop


class Launch(Record, tag=True):
    """Start a process."""


class End(Record, tag=True):
    """End the process that runs; its exit is no event."""


class Wait(Record, tag=True):
    """Give `Due` after `delay_ms`."""

    delay_ms: int


class Refuse(Record, tag=True):
    """Answer requests with a 503 from now on: nothing will serve them soon."""


class Hold(Record, tag=True):
    """Let requests wait for the process that is being started."""


class Watch(Record, tag=True):
    """Let requests wait, and give `Demand` when one does."""


class Remove(Record, tag=True):
    """End everything and leave nothing."""


Command = Launch | End | Wait | Refuse | Hold | Watch | Remove
Step = tuple[Life, tuple[Command, ...]]


class Illegal(Exception):
    """An event that cannot happen in this state: a bug of the driver."""


def begin(now_ms: int, restart: RestartPolicy = "always") -> Life:
    return Life(state="starting", since_ms=now_ms, restart=restart)


def step(life: Life, event: Event, now_ms: int, backoff: Backoff) -> Step:
    """The next life and what to do, in order. Raises `Illegal`."""
    handler = _TABLE.get((life.state, type(event)))
    if handler is None:
        raise Illegal(f"{type(event).__name__} while {life.state}")
    return handler(life, event, now_ms, backoff)


def _ignore(life: Life, event: Event, now_ms: int, backoff: Backoff) -> Step:
    return life, ()


def _launch(life: Life, event: Event, now_ms: int, backoff: Backoff) -> Step:
    return _to(life, "starting", now_ms, detail=life.detail), (Hold(), Launch())


def _ready(life: Life, event: Event, now_ms: int, backoff: Backoff) -> Step:
    return msgspec.structs.replace(_to(life, "running", now_ms), ready_ms=now_ms, lacks=0), ()


def _squeezed(life: Life, event: Event, now_ms: int, backoff: Backoff) -> Step:
    return _to(life, "asleep", now_ms), ()


def _activity(life: Life, event: Event, now_ms: int, backoff: Backoff) -> Step:
    return _to(life, "running", now_ms), ()


def _dropped(life: Life, event: Event, now_ms: int, backoff: Backoff) -> Step:
    assert isinstance(event, Dropped)
    return _to(life, "dead", now_ms, detail=event.reason), (End(), Watch())


def _paused(life: Life, event: Event, now_ms: int, backoff: Backoff) -> Step:
    return _to(life, "paused", now_ms), ()


def _stop(life: Life, event: Event, now_ms: int, backoff: Backoff) -> Step:
    return _to(life, "stopping", now_ms), (Remove(),)


def _crash(life: Life, event: Event, now_ms: int, backoff: Backoff) -> Step:
    assert isinstance(event, Exited)
    if event.own_fault:
        return _to(life, "failed", now_ms, detail=event.reason), (Refuse(),)
    if life.restart != "always" and event.code == 0:
        return _to(life, "done", now_ms, detail=event.reason), (Refuse(),)
    if life.restart == "never":
        return _to(life, "failed", now_ms, detail=event.reason), (Refuse(),)
    was_healthy = life.state != "starting" and now_ms - life.ready_ms >= backoff.healthy_after_ms
    crashes = 1 if was_healthy else life.crashes + 1
    life = msgspec.structs.replace(life, crashes=crashes, restarts=life.restarts + 1)
    delay_ms = backoff.delay_ms(crashes)
    if delay_ms == 0:
        return _to(life, "starting", now_ms, detail=event.reason), (Hold(), Launch())
    return _to(life, "backoff", now_ms, detail=event.reason), (Refuse(), Wait(delay_ms=delay_ms))


def _lacking(life: Life, event: Event, now_ms: int, backoff: Backoff) -> Step:
    assert isinstance(event, Lacking)
    life = msgspec.structs.replace(life, lacks=life.lacks + 1)
    return _to(life, "backoff", now_ms, detail=event.reason), (Refuse(), Wait(delay_ms=backoff.lack_ms(life.lacks)))


def _to(life: Life, state: InstanceState, now_ms: int, *, detail: str = "") -> Life:
    return msgspec.structs.replace(life, state=state, since_ms=now_ms, detail=detail)


_AWAKE: tuple[InstanceState, ...] = ("running", "asleep")
_ALL: tuple[InstanceState, ...] = ("starting", "running", "asleep", "paused", "dead", "backoff", "failed", "done", "stopping")


def _but(*states: InstanceState) -> tuple[InstanceState, ...]:
    return tuple(state for state in _ALL if state not in states)


_TABLE: dict[tuple[InstanceState, type[Event]], Callable[[Life, Event, int, Backoff], Step]] = {
    ("starting", Launched): _launch,
    ("failed", Launched): _launch,
    ("done", Launched): _launch,
    ("starting", Ready): _ready,
    ("starting", Exited): _crash,
    ("starting", Lacking): _lacking,
    **{(state, Exited): _crash for state in (*_AWAKE, "paused")},
    ("backoff", Due): _launch,
    ("running", Squeezed): _squeezed,
    ("asleep", Activity): _activity,
    **{(state, Paused): _paused for state in _AWAKE},
    ("paused", Resumed): _activity,
    **{(state, Dropped): _dropped for state in _AWAKE},
    ("dead", Demand): _launch,
    **{(state, Stop): _stop for state in _but("stopping")},
    # Timers and observations that were under way when the state changed:
    **{(state, Due): _ignore for state in _but("backoff")},
    **{(state, Activity): _ignore for state in _but("asleep")},
    **{(state, Squeezed): _ignore for state in _but("running")},
    **{(state, Paused): _ignore for state in ("paused", "stopping")},
    **{(state, Resumed): _ignore for state in (*_AWAKE, "stopping")},
    **{(state, Dropped): _ignore for state in _but(*_AWAKE)},
    **{(state, Demand): _ignore for state in _but("dead")},
    ("stopping", Exited): _ignore,
    ("stopping", Lacking): _ignore,
    ("stopping", Stop): _ignore,
}
