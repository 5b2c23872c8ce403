"""A bar where somebody looks, nothing where nobody does."""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Protocol


class Bar(Protocol):
    def advance(self, by: float = 1.0, note: str | None = None) -> None:
        """`by` more of the total are done."""
        ...


class _Nothing:
    def advance(self, by: float = 1.0, note: str | None = None) -> None:
        pass


@contextmanager
def progress(what: str, total: float | None, *, quiet: bool) -> Generator[Bar]:
    """On standard error. `total` None: nobody knows how much there is."""
    if quiet or not sys.stderr.isatty():
        yield _Nothing()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(what, total=total)

        class Shown:
            def advance(self, by: float = 1.0, note: str | None = None) -> None:
                shown.update(task, advance=by, description=note or what)

        yield Shown()
