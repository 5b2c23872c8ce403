"""CSV as people write it, row by row: known columns, numbers in their range, no name twice."""

import csv
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NoReturn

from skerry.core.worlds.faults import meant, refuse, shown

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
NAME_ALLOWED = "allowed: 1 to 128 letters, digits, '.', '_', '/', '-', the first a letter or digit"
LINE_BYTES_MAX = 4 << 20  # an app with demand in 5,000 metros takes 150 kB


class Row:
    """One line of a table; its methods refuse with file, line and column."""

    __slots__ = ("_cells", "_file", "_index", "line")

    def __init__(self, file: str, line: int, index: Mapping[str, int], cells: list[str]) -> None:
        self._file, self.line, self._index, self._cells = file, line, index, cells

    def text(self, column: str, default: str | None = None) -> str:
        at = self._index.get(column)
        value = "" if at is None else self._cells[at].strip()
        if not value and default is None:
            self.refuse(column, "is empty; it needs a value")
        return value or default or ""

    def name(self, column: str) -> str:
        value = self.text(column)
        if not NAME.fullmatch(value):
            self.refuse(column, f"{shown(value)} is no name; {NAME_ALLOWED}")
        return value

    def number(self, column: str, low: float, high: float, default: float | None = None) -> float:
        value = self.text(column, None if default is None else "")
        if not value and default is not None:
            return default
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not low <= number <= high:
            self.refuse(column, f"{shown(value)} is not allowed; allowed: a number from {low:g} to {high:g}")
        return number

    def whole(self, column: str, low: int, high: int) -> int:
        value = self.text(column)
        number = int(value) if re.fullmatch(r"[0-9]{1,15}", value) else -1
        if not low <= number <= high:
            self.refuse(column, f"{shown(value)} is not allowed; allowed: a whole number from {low} to {high}")
        return number

    def words(self, column: str) -> tuple[str, ...]:
        return tuple(sorted(set(self.text(column, "").split())))

    def refuse(self, column: str, message: str) -> NoReturn:
        refuse(self._file, self.line, column, message)


def rows(
    file: str, lines: Iterable[bytes], required: Sequence[str], optional: Sequence[str] = (), *, rows_max: int
) -> Iterator[Row]:
    """The rows under a head that names every required column, in any order, and no unknown one."""
    reader = csv.reader(texts(file, lines), strict=True)
    index: dict[str, int] | None = None
    count = 0
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            refuse(file, reader.line_num, "", f"is no CSV: {error}")
        if cells is None:
            break
        if not any(cell.strip() for cell in cells):
            continue
        if index is None:
            index = _head(file, reader.line_num, cells, required, optional)
            continue
        count += 1
        if count > rows_max:
            refuse(file, reader.line_num, "", f"more than {rows_max} rows; that is the limit")
        if len(cells) != len(index):
            refuse(file, reader.line_num, "", f"has {len(cells)} fields; the head names {len(index)}")
        yield Row(file, reader.line_num, index, cells)
    if index is None:
        refuse(file, 0, "", f"is empty; its first line names the columns: {','.join((*required, *optional))}")


def texts(file: str, lines: Iterable[bytes]) -> Iterator[str]:
    """Lines as UTF-8, without the mark that some editors put first."""
    for number, line in enumerate(lines, start=1):
        if len(line) > LINE_BYTES_MAX:
            refuse(file, number, "", f"is longer than {LINE_BYTES_MAX} bytes")
        try:
            text = line.decode()
        except UnicodeDecodeError:
            refuse(file, number, "", "is not UTF-8")
        yield text.removeprefix("\ufeff") if number == 1 else text


def _head(file: str, line: int, cells: list[str], required: Sequence[str], optional: Sequence[str]) -> dict[str, int]:
    names = [cell.strip() for cell in cells]
    known = (*required, *optional)
    for name in names:
        if name not in known:
            refuse(file, line, name, f"is no column; {meant(name, known)}")
        if names.count(name) > 1:
            refuse(file, line, name, "is named twice")
    for name in required:
        if name not in names:
            refuse(file, line, name, f"this column is missing; the head names {', '.join(names)}")
    return {name: at for at, name in enumerate(names)}
