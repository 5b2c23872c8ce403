"""Reading a TOML table field by field: what is unknown, missing or wrong is refused with its file and line."""

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn, TypeVar, cast

from skerry.core.worlds.faults import WorldError, meant, refuse, shown

T = TypeVar("T")

BYTES_MAX = 1 << 20  # a scenario is a page or two
_HEADER = re.compile(r"\s*(\[\[?)\s*([A-Za-z0-9_.-]+)\s*\]\]?")
_KEY = re.compile(r"\s*([A-Za-z0-9_-]+)\s*=")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_AT_LINE = re.compile(r"at line (\d+)")
_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
DURATION_MS_MAX = 366 * 86_400_000


class Table:
    """One table of the file. Take what is expected, then `end`."""

    def __init__(self, file: "TomlFile", path: str, values: dict[str, object]) -> None:
        self._file, self._path, self._values = file, path, dict(values)
        self._asked: list[str] = []

    def text(self, key: str, default: str | None = None) -> str:
        return self._take(key, default, str, "a text")

    def number(self, key: str, default: float | None = None, *, least: float = 0.0, most: float = 1e9) -> float:
        value: object = self._raw(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.refuse(key, f"is {shown(value)}; it has to be a number")
        if not least <= value <= most:  # NaN is neither
            self.refuse(key, f"is {value}; it has to be from {least:g} to {most:g}")
        return float(value)

    def whole(self, key: str, default: int | None = None, *, least: int = 0, most: int = 10**9) -> int:
        value: object = self._raw(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            self.refuse(key, f"is {shown(value)}; it has to be a whole number")
        if not least <= value <= most:
            self.refuse(key, f"is {value}; it has to be from {least} to {most}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        return self._take(key, default, bool, "true or false")

    def choice(self, key: str, known: Iterable[str], default: str | None = None) -> str:
        value, names = self.text(key, default), list(known)
        if value not in names:
            self.refuse(key, f"is {shown(value)}; {meant(value, names)}")
        return value

    def texts(self, key: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        value = self._raw(key, None if default is None else list(default))
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, list) or not all(isinstance(item, str) for item in cast("list[object]", value)):
            self.refuse(key, "has to be a list of texts")
        return tuple(cast("list[str]", value))

    def duration_ms(self, key: str, default: str | None = None, *, least_ms: int = 0) -> int:
        value = self.text(key, default)
        found = _DURATION.fullmatch(value.strip())
        if found is None:
            self.refuse(key, f"is {shown(value)}; a duration is a number with ms, s, m, h or d, like '90s' or '1.5h'")
        length_ms = round(float(found[1]) * _UNIT_MS[found[2]])
        if not least_ms <= length_ms <= DURATION_MS_MAX:
            self.refuse(key, f"is {shown(value)}; it has to be from {least_ms} ms to 366d")
        return length_ms

    def has(self, key: str) -> bool:
        if key not in self._asked:
            self._asked.append(key)
        return key in self._values

    def table(self, key: str) -> "Table":
        """An empty one when it is absent."""
        value = self._raw(key, {})
        if not isinstance(value, dict):
            self.refuse(key, f"has to be a table: [{key}]")
        return Table(self._file, key, cast("dict[str, object]", value))

    def tables(self, key: str) -> list["Table"]:
        value = self._raw(key, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in cast("list[object]", value)):
            self.refuse(key, f"has to be a list of tables: [[{key}]]")
        items = cast("list[dict[str, object]]", value)
        return [Table(self._file, f"{key}[{number}]", item) for number, item in enumerate(items)]

    def end(self) -> None:
        """Raises `WorldError` for what nobody asked about."""
        for key in self._values:
            if key not in self._asked:
                self.refuse(key, f"is not known here; {meant(key, self._asked)}")

    def refuse(self, key: str, message: str) -> NoReturn:
        """Raises `WorldError`."""
        name = f"{self._path}.{key}" if self._path else key
        refuse(self._file.name, self.line(key), name, message)

    def line(self, key: str = "") -> int:
        """Where a key, or else its table, stands; 0: nowhere."""
        return self._file.line(self._path, key)

    def _take(self, key: str, default: T | None, kind: type[T], words: str) -> T:
        value: object = self._raw(key, default)
        if not isinstance(value, kind):
            self.refuse(key, f"is {shown(value)}; it has to be {words}")
        return value

    def _raw(self, key: str, default: object) -> object:
        if not self.has(key):
            if default is None:
                self.refuse(key, "is missing")
            return default
        return self._values[key]


class TomlFile:
    """A parsed file that knows on which line a key stands."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        try:
            raw = path.read_bytes()
            if len(raw) > BYTES_MAX:
                refuse(self.name, 0, "", f"is larger than {BYTES_MAX} bytes")
            text = raw.decode()
            values = tomllib.loads(text)
        except OSError as error:
            raise WorldError(self.name, 0, "", f"cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise WorldError(self.name, 0, "", f"is not UTF-8: {error}") from error
        except tomllib.TOMLDecodeError as error:
            line = _AT_LINE.search(str(error))
            raise WorldError(self.name, int(line[1]) if line else 0, "", f"is not TOML: {error}") from error
        self._lines = _lines(text)
        self.root = Table(self, "", values)

    def line(self, path: str, key: str) -> int:
        return self._lines.get((path, key)) or self._lines.get((path, "")) or 0


def _lines(text: str) -> dict[tuple[str, str], int]:
    """(table, key) -> line, the table as `Table` names it."""
    found: dict[tuple[str, str], int] = {}
    counts: dict[str, int] = {}
    path = ""
    for number, line in enumerate(text.splitlines(), start=1):
        header = _HEADER.match(line)
        if header is not None:
            name = header[2]
            if header[1] == "[[":
                path = f"{name}[{counts.get(name, 0)}]"
                counts[name] = counts.get(name, 0) + 1
            else:
                path = name
            found[(path, "")] = number
        elif (key := _KEY.match(line)) is not None:
            found.setdefault((path, key[1]), number)
    return found
