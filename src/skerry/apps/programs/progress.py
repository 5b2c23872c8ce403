"""What people see while an image is sent, and until its app serves. On stderr: stdout is for results."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from skerry.apps.client import Client, ClientError
from skerry.core.types.view import InstanceView, RolloutView

LOOK_S = 0.3
BAD_STATES = ("failed", "backoff")
STARTS_GIVEN = 2  # a slow machine may need more than one for a guest
PLACE_S = 2.0  # so long a decision may take
BAD_S = 8.0  # so long an instance that keeps failing is given, since a first crash is often mended by a second try


class Bar:
    """How much of something large has been sent, or whatever is being done with it; nothing where nobody looks."""

    def __init__(self, *, quiet: bool, doing: str = "sending") -> None:
        self._doing = doing
        console = Console(file=sys.stderr, quiet=quiet)
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._progress = Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def tell(self, name: str, done: int, total: int) -> None:
        task = self._tasks.get(name)
        if task is None:
            task = self._tasks[name] = self._progress.add_task(f"{self._doing} {name}", total=total)
        self._progress.update(task, completed=done, total=total)


def wait_until_served(client: Client, account: str, app: str, version: str, *, seconds: float, quiet: bool) -> None:
    """Until an instance of the version serves. Raises `ClientError` with what keeps it from that."""
    began, bad_since, said = time.monotonic(), 0.0, ""
    deadline = began + seconds
    while True:
        seen = [instance for instance in client.instances(account, app) if instance.version == version]
        if any(instance.state in ("running", "asleep") for instance in seen):
            return
        news = _describe(seen)
        if news != said and not quiet:
            print(f"  {news}", file=sys.stderr, flush=True)
            said = news
        now = time.monotonic()
        bad_since = (bad_since or now) if seen and all(map(_failed_before, seen)) else 0.0
        if (bad_since and now - bad_since > BAD_S) or any(instance.state == "failed" for instance in seen):
            raise ClientError(f"{app} does not start: {_worst(seen)}", hint=f"`skerry logs {app}` has what it wrote")
        if not seen and now - began > PLACE_S:
            _fail_if_blocked(client, account, app)
        if now > deadline:
            _give_up(client, account, app, seen, seconds)
        time.sleep(LOOK_S)


def _failed_before(instance: InstanceView) -> bool:
    """Also while it is tried again: a program that never opens its port spends its life starting."""
    return instance.state in BAD_STATES or (instance.state == "starting" and instance.restarts >= STARTS_GIVEN)


def _fail_if_blocked(client: Client, account: str, app: str) -> None:
    state = _rollout(client, account, app)
    if state is not None and state.state == "blocked":
        raise ClientError(f"{app} finds no place: {state.detail}", hint=f"`skerry explain {app}` tells of each city why not")


def _rollout(client: Client, account: str, app: str) -> RolloutView | None:
    return next((item.rollout for item in client.apps() if (item.account, item.app) == (account, app)), None)


def _give_up(client: Client, account: str, app: str, seen: list[InstanceView], seconds: float) -> None:
    state = _rollout(client, account, app)
    why = _worst(seen) if seen else (state.detail if state and state.detail else "no city runs it yet")
    raise ClientError(
        f"{app} does not serve after {seconds:.0f} s: {why}", hint=f"`skerry explain {app}` tells where it may run and why"
    )


def _describe(seen: list[InstanceView]) -> str:
    if not seen:
        return "deciding where it runs"
    parts = [f"{item.node} {item.state}" + (f" ({item.detail})" if item.detail else "") for item in seen[:3]]
    return "; ".join(parts) + (f"; and {len(seen) - 3} more" if len(seen) > 3 else "")


def _worst(seen: list[InstanceView]) -> str:
    return next((f"{item.node}: {item.detail}" for item in seen if item.detail), _describe(seen))
