"""What `skerry top` shows: instances asked side by side, the busiest first."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import msgspec
from rich.console import Console, ConsoleOptions, RenderResult
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


def _order(line: Used) -> tuple[int, str, str, str]:
    """Those that use about the same by name, so that lines do not change places for nothing."""
    used = (line.usage.used_millicores or 0) if line.usage else 0
    return -(used // 10), line.app, line.node, line.instance


def print_usages(lines: Sequence[Used]) -> None:
    console().print(Usages(lines))


def show_live(ask: Callable[[], tuple[Used, ...]], *, every_s: float) -> None:
    """Until Ctrl-C. A platform that does not answer for a moment is asked again."""
    from rich.live import Live

    lines, problem = ask(), ""
    with Live(console=console(), auto_refresh=False, screen=True) as live, contextlib.suppress(KeyboardInterrupt):
        while True:
            live.update(Usages(lines, live=f"{time.strftime('%H:%M:%S')}, every {every_s:g} s; Ctrl-C ends", problem=problem))
            live.refresh()
            time.sleep(every_s)
            try:
                lines, problem = ask(), ""
            except ClientError as error:
                problem = f"now: {error}"


class Usages:
    """A table, and below it a line for everything that is held back or went wrong.

    Of columns and lines those that matter least are left out where the terminal is too small, and it says so: half a number
    is worse than none. `live` is about the moment, and ends the first line.
    """

    def __init__(self, lines: Sequence[Used], *, live: str = "", problem: str = "") -> None:
        self._lines = lines
        self._live = live
        self._problem = problem

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._live:
            yield Text(f"{_sum(self._lines)}; {self._live}", style="dim", no_wrap=True, overflow="ellipsis")
        if self._problem:
            yield Text(self._problem, style="red")
        lines, notes = self._lines, _notes(self._lines)
        if self._live:
            notes = _that_fit(notes, options.max_width, options.max_height // 3)
            lines = lines[: max(LINES_MIN, options.max_height - AROUND_TABLE - _height(notes, options.max_width))]
        cells = [_cells(line) for line in lines]
        names = _fitting(cells, options.max_width)
        table = make_table(*names)
        for column in table.columns:
            column.no_wrap, column.overflow = True, "ellipsis"
        for row in cells:
            table.add_row(*(row[name] for name in names))
        yield table
        yield from map(Text, notes)
        yield from (Text(said, style="dim") for said in _left_out(len(self._lines) - len(lines), names))


COLUMNS = ("instance", "app", "city", "node", "state", "cpu", "share", "may", "credits", "memory", "private", "pids", "restarts")
LEAST_FIRST = ("city", "restarts", "pids", "private", "credits", "share", "node", "instance")  # the others are always there
GAP = 3  # between two columns
AROUND_TABLE = 8  # lines: the sum, a problem, the head, what was left out
LINES_MIN = 3


def _fitting(cells: Sequence[Mapping[str, Text]], width: int) -> list[str]:
    names: list[str] = list(COLUMNS)
    if not any(row["restarts"].plain for row in cells):
        names.remove("restarts")
    widths = {name: max([len(name), *(row[name].cell_len for row in cells)]) + GAP for name in COLUMNS}
    for name in LEAST_FIRST:
        if sum(widths[kept] for kept in names) <= width:
            break
        if name in names:
            names.remove(name)
    return names


def _left_out(lines: int, names: Sequence[str]) -> Iterator[str]:
    if lines > 0:
        yield f"and {lines} more, which use less"
    absent = [name for name in COLUMNS if name not in names and name != "restarts"]
    if absent:
        yield f"a wider terminal, or --json, also has: {', '.join(absent)}"


def _notes(lines: Sequence[Used]) -> list[str]:
    return [f"{line.app} {line.instance[:ID_CHARS_SHOWN]} on {line.node}: {note}" for line in lines if (note := _note(line))]


def _that_fit(notes: Sequence[str], width: int, height: int) -> list[str]:
    return [note for at, note in enumerate(notes) if _height(notes[: at + 1], width) <= height]


def _height(texts: Sequence[str], width: int) -> int:
    return sum(-(-len(text) // width) for text in texts)


def _sum(lines: Sequence[Used]) -> str:
    used = sum(line.usage.used_millicores or 0 for line in lines if line.usage)
    private = sum(line.usage.private_bytes for line in lines if line.usage)
    return f"{len(lines)} instances, {used} m of CPU, {private / MIB:.0f} MiB private"


def _cells(line: Used) -> dict[str, Text]:
    """By column."""
    texts = {
        "instance": line.instance[:ID_CHARS_SHOWN],
        "app": f"{line.account}/{line.app}",
        "city": line.city,
        "node": line.node,
        "state": line.state,
        "restarts": str(line.restarts) if line.restarts else "",
    }
    if (usage := line.usage) is not None:
        texts |= {
            "cpu": "" if usage.used_millicores is None else f"{usage.used_millicores} m",
            "share": f"{usage.share_millicores} m",
            "may": f"{usage.granted_millicores} of {usage.limit_millicores} m",
            "credits": f"{usage.credit_us / 1e6:.1f} s",
            "memory": f"{usage.memory_bytes / MIB:.1f} of {usage.memory_bytes_max // MIB} MiB",
            "private": f"{usage.private_bytes / MIB:.1f} MiB",
            "pids": str(usage.pids),
        }
    yellow = usage is not None and bool(usage.held)
    return {name: Text(texts.get(name, ""), style="yellow" if yellow and name == "may" else "") for name in COLUMNS}


def _note(line: Used) -> str:
    parts = (line.usage.held if line.usage else "", line.problem, line.detail, *(strain.text for strain in line.strains))
    return "; ".join(part for part in parts if part)
