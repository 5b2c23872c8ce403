"""What `skerry up` shows: plain lines where nobody looks at a terminal, a live view where somebody does."""

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING, Protocol, TextIO

from skerry.apps.supervisor.layout import Layout
from skerry.apps.supervisor.planes import PlaneState
from skerry.apps.supervisor.words import env_line, exit_text
from skerry.core.types.view import Status
from skerry.kit.record import Record, encode

if TYPE_CHECKING:
    from rich.console import Group

NOTES_SHOWN = 5
INSTANCE_STATES_SHOWN = 8


class Screen(Protocol):
    def note(self, text: str) -> None:
        """Something that happened; stays readable."""
        ...

    def planes(self, states: tuple[PlaneState, ...]) -> None:
        """How far the processes are."""
        ...

    def ready(self, seconds: float) -> None:
        """Everything serves."""
        ...

    def status(self, status: Status) -> None:
        """What the platform says of itself, now and then."""
        ...

    def ending(self) -> None:
        """From here on processes end because they shall."""
        ...

    def close(self) -> None: ...


class PlainScreen:
    """One line per event."""

    def __init__(self, layout: Layout, out: TextIO | None = None) -> None:
        self._layout = layout
        self._out = out or sys.stdout
        self._planes: dict[str, PlaneState] = {}
        self._apps: dict[tuple[str, str], str] = {}
        self._places: dict[str, str] = {}
        self._is_ready = False
        self._is_ending = False

    def note(self, text: str) -> None:
        self._print(text)

    def planes(self, states: tuple[PlaneState, ...]) -> None:
        for state in states:
            before = self._planes.get(state.name)
            self._planes[state.name] = state
            if state.ready and not (before and before.ready):
                self._print(f"{state.name}: {'back' if state.restarts else 'ready'} (pid {state.pid})")
            elif before and before.pid and state.pid is None and not self._is_ending:
                self._print(f"{state.name}: ended ({exit_text(state.last_exit)})")

    def ready(self, seconds: float) -> None:
        self._is_ready = True
        layout = self._layout
        self._print(f"Ready after {seconds:.1f} s: {len(layout.sites)} cities, {len(layout.nodes)} nodes")
        for site in layout.sites:
            self._print(f"  {site.id}  {site.city:<16} {site.address:<18} {len(layout.nodes_of(site.id))} nodes")
        self._print(f"API: {layout.api_url}    data: {layout.data}")
        self._print(f"Point wrangler at it: {env_line(layout)}")

    def status(self, status: Status) -> None:
        for site in status.sites:
            self._place(site.site, site.state)
        for node in status.nodes:
            self._place(node.node, node.state)
        for app in status.apps:
            said = f"{app.account_name}/{app.app}: {app.rollout.state}, serving in {', '.join(app.sites) or 'no city'}"
            key = (app.account, app.app)
            if self._apps.get(key) != said:
                first = key not in self._apps
                self._apps[key] = said
                self._print(f"{said}: {app.url}" if first else said)

    def ending(self) -> None:
        self._is_ending = True
        self._print("Ending …")

    def close(self) -> None:
        pass

    def _place(self, name: str, state: str) -> None:
        before = self._places.get(name, "up")
        self._places[name] = state
        if self._is_ready and state != before:
            self._print(f"{name}: {state}")

    def _print(self, text: str) -> None:
        with contextlib.suppress(OSError):  # nobody reads any more: that ends no platform
            print(f"{time.strftime('%H:%M:%S')} {text}", file=self._out, flush=True)


class LiveScreen:
    """The whole platform in one picture that changes in place."""

    def __init__(self, layout: Layout) -> None:
        from rich.console import Console
        from rich.live import Live

        self._layout = layout
        self._notes: list[str] = []
        self._states: tuple[PlaneState, ...] = ()
        self._status: Status | None = None
        self._seconds: float | None = None
        self._is_ending = False
        self._console = Console()
        # No thread of its own: it would take signals and children from the supervisor's loop.
        self._live = Live(console=self._console, auto_refresh=False, transient=False)
        self._live.start()

    def note(self, text: str) -> None:
        self._remember(text)
        self._draw()

    def planes(self, states: tuple[PlaneState, ...]) -> None:
        for before, state in zip(self._states, states, strict=False):
            if self._seconds is None or self._is_ending:
                break
            if before.pid and state.pid is None:
                self._remember(f"{state.name}: ended ({exit_text(state.last_exit)})")
            elif state.ready and not before.ready:
                self._remember(f"{state.name}: back (pid {state.pid})")
        self._states = states
        self._draw()

    def ready(self, seconds: float) -> None:
        self._seconds = seconds
        self._draw()

    def status(self, status: Status) -> None:
        self._status = status
        self._draw()

    def ending(self) -> None:
        self._is_ending = True
        self._status = None
        self._draw()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._live.stop()

    def _remember(self, text: str) -> None:
        self._notes = [*self._notes, f"{time.strftime('%H:%M:%S')} {text}"][-NOTES_SHOWN:]

    def _draw(self) -> None:
        with contextlib.suppress(OSError):  # the terminal is gone; SIGHUP says so too
            self._live.update(self._picture(), refresh=True)

    def _picture(self) -> "Group":
        from rich.console import Group
        from rich.text import Text

        from skerry.apps.supervisor import picture

        if self._is_ending:
            return Group(picture.ending(self._states), *(Text(note, style="dim") for note in self._notes))
        parts = [picture.header(self._layout, self._states, self._seconds)]
        if self._status is not None:
            parts += [picture.cities(self._layout, self._status), picture.apps(self._layout, self._status)]
        elif self._states:
            parts.append(picture.starting(self._states))
        if self._seconds is not None:
            parts.append(picture.footer(self._layout))
        parts += [Text(note, style="dim") for note in self._notes]
        return Group(*parts)


class Started(Record, omit_defaults=False):
    """What `--json` and `--detach` answer once it serves."""

    pid: int
    api_url: str
    data_dir: str
    suffix: str
    port: int
    sites: tuple[str, ...]
    nodes: tuple[str, ...]
    seconds: float


class JsonScreen(PlainScreen):
    """Progress as plain lines on standard error, and one JSON object on standard output when it serves."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout, sys.stderr)

    def ready(self, seconds: float) -> None:
        super().ready(seconds)
        print(encode(started(self._layout, seconds)).decode(), flush=True)


def started(layout: Layout, seconds: float) -> Started:
    return Started(
        pid=os.getpid(),
        api_url=layout.api_url,
        data_dir=str(layout.data),
        suffix=layout.options.suffix,
        port=layout.options.port,
        sites=tuple(site.id for site in layout.sites),
        nodes=tuple(node.id for node in layout.nodes),
        seconds=round(seconds, 3),
    )
