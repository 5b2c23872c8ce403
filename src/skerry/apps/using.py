"""What `skerry top` shows: instances asked side by side, the busiest first."""

import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from skerry.apps.client import ClientError, Target
from skerry.apps.tables import console, make_table
from skerry.apps.talking import ID_CHARS_SHOWN, Partner, frames, talk
from skerry.core.types.strain import Strain
from skerry.core.types.usage import InstanceUsage
from skerry.core.types.view import InstanceView
from skerry.kit.record import Record
from skerry.ports.calls import Usage

AT_ONCE = 8  # conversations side by side: a plane has few more waiting (`skerry.services.calls.exchange`)
ASKED_MAX = 200  # instances of one look
WITH_PROCESS = ("starting", "running", "asleep", "paused")
MIB = 1 << 20


class Used(Record):
    """One line: where it is, and what it uses. `usage` None: no process, or `problem` says why its node did not tell."""

    instance: str
    account: str
    app: str
    city: str
    node: str
    state: str
    restarts: int
    detail: str
    usage: InstanceUsage | None = None
    problem: str = ""
    strains: tuple[Strain, ...] = ()


def look(target: Target, instances: Sequence[InstanceView]) -> tuple[Used, ...]:
    """All of them, those that use the most CPU first; the first `ASKED_MAX` are asked."""
    asked = [item for item in instances if item.state in WITH_PROCESS][:ASKED_MAX]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = dict(zip((item.instance for item in asked), pool.map(partial(_ask, target), asked), strict=True))
    lines = [_line(item, answers.get(item.instance)) for item in instances]
    return tuple(sorted(lines, key=_order))


def _ask(target: Target, item: InstanceView) -> InstanceUsage | str:
    said = bytearray()
    try:
        with talk(Partner(target=target, account=item.account, app=item.app, instance=item.instance), Usage()) as opened:
            for heard in frames(opened):
                if isinstance(heard, tuple):
                    said += heard[1]
        return msgspec.json.decode(said, type=InstanceUsage)
    except ClientError as error:
        return str(error)
    except msgspec.DecodeError as error:
        return f"what its node says cannot be read: {error}"


def _line(item: InstanceView, answer: InstanceUsage | str | None) -> Used:
    return Used(
        instance=item.instance,
        account=item.account_name,
        app=item.app,
        city=item.site,
        node=item.node,
        state=item.state,
        restarts=item.restarts,
        detail=item.detail,
        usage=answer if isinstance(answer, InstanceUsage) else None,
        problem=answer if isinstance(answer, str) else "",
        strains=item.strains,
    )


def _order(line: Used) -> tuple[int, int, str, str, str]:
    usage = line.usage
    return (
        -(usage.used_millicores or 0) if usage else 0,
        -(usage.memory_bytes if usage else 0),
        line.app,
        line.node,
        line.instance,
    )


def print_usages(lines: Sequence[Used]) -> None:
    console().print(render(lines))


def show_live(ask: Callable[[], tuple[Used, ...]], *, every_s: float) -> None:
    """Until Ctrl-C. A platform that does not answer for a moment is asked again."""
    from rich.live import Live

    shown = render(ask())
    with Live(shown, console=console(), auto_refresh=False, screen=True) as live, contextlib.suppress(KeyboardInterrupt):
        while True:
            live.refresh()
            time.sleep(every_s)
            try:
                shown = render(ask())
                live.update(shown)
            except ClientError as error:
                live.update(Group(shown, Text(f"now: {error}", style="red")))


def render(lines: Sequence[Used]) -> RenderableType:
    """A table, and below it a line for everything that is held back or went wrong."""
    table = make_table(
        "instance", "app", "city", "node", "state", "cpu", "share", "may", "credits", "memory", "private", "pids", "restarts"
    )
    for line in lines:
        _add(table, line)
    notes = [f"{line.instance[:ID_CHARS_SHOWN]} on {line.node}: {note}" for line in lines if (note := _note(line))]
    return Group(table, *(Text(note) for note in notes))


def _add(table: Table, line: Used) -> None:
    front = (line.instance[:ID_CHARS_SHOWN], f"{line.account}/{line.app}", line.city, line.node, line.state)
    back = str(line.restarts) if line.restarts else ""
    usage = line.usage
    if usage is None:
        table.add_row(*front, *[""] * 7, back)
        return
    used = "" if usage.used_millicores is None else f"{usage.used_millicores} m"
    may = f"{usage.granted_millicores} of {usage.limit_millicores} m"
    table.add_row(
        *front,
        used,
        f"{usage.share_millicores} m",
        Text(may, style="yellow" if usage.held else ""),
        f"{usage.credit_us / 1e6:.1f} s",
        f"{usage.memory_bytes / MIB:.1f} of {usage.memory_bytes_max // MIB} MiB",
        f"{usage.private_bytes / MIB:.1f} MiB",
        str(usage.pids),
        back,
    )


def _note(line: Used) -> str:
    parts = (line.usage.held if line.usage else "", line.problem, line.detail, *(strain.text for strain in line.strains))
    return "; ".join(part for part in parts if part)
