"""What is wrong with a file that somebody wrote: where it stands, and what is allowed instead."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import NoReturn

SHOWN_CHARS_MAX = 60  # of a wrong value
KNOWN_SHOWN_MAX = 12


class WorldError(Exception):
    """A world, plan or event that cannot be taken. `line` counts from 1; 0: the file as a whole."""

    def __init__(self, file: str, line: int, field: str, message: str) -> None:
        self.file, self.line, self.field, self.message = file, line, field, message
        where = f"{file}:{line}" if line else file
        super().__init__(f"{where}: {field}: {message}" if field else f"{where}: {message}")


def refuse(file: str, line: int, field: str, message: str) -> NoReturn:
    raise WorldError(file, line, field, message)


def shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_CHARS_MAX else f"{text[:SHOWN_CHARS_MAX]}…"


def meant(name: str, known: Iterable[str]) -> str:
    """A hint for a name that nobody knows: the nearest known one, else what there is."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1) or get_close_matches(name.lower(), names, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    if len(names) > KNOWN_SHOWN_MAX:
        return f"there are {len(names)}, from {names[0]!r} to {names[-1]!r}"
    return f"there are: {', '.join(names)}" if names else "there are none"
