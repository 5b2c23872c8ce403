"""Amounts and lists as people type them: 256M, 0.5, 30s, lhr,cur, NAME=value."""

import re
from collections.abc import Iterable, Mapping

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)(i?B?)", re.IGNORECASE)
_TIME = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d)?")
_PORT = re.compile(r"([0-9]{1,5})(/tcp)?")
_MIB_OF = {"": 1 / (1 << 20), "K": 1 / 1024, "M": 1.0, "G": 1024.0, "T": 1024.0 * 1024.0}
_MS_OF = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, None: 1000}


class BadWord(ValueError):
    """What was typed means nothing here; the text says what would."""


def mib(text: object) -> int:
    """256M, 1G, 1.5GiB; a bare number is MiB."""
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    found = _SIZE.fullmatch(str(text).strip())
    if found is None:
        raise BadWord(f"{str(text)[:40]!r} is no size: 256M and 1G are")
    number, unit = float(found.group(1)), found.group(2).upper()
    amount = number if not unit and not found.group(3) else number * _MIB_OF[unit]
    if amount != int(amount):
        raise BadWord(f"{str(text)[:40]!r} is not a whole number of MiB")
    return int(amount)


def millicores(text: object) -> int:
    """0.5 is half a core, 250m a quarter."""
    word = str(text).strip()
    try:
        amount = float(word[:-1]) if word.endswith("m") else float(word) * 1000
    except ValueError:
        raise BadWord(f"{word[:40]!r} is no number of cores: 0.5 and 250m are") from None
    if not 0 < amount < 1_000_000:
        raise BadWord(f"{word[:40]!r} is no number of cores: 0.5 and 250m are")
    return round(amount)


def milliseconds(text: object) -> int:
    """500ms, 30s, 5m; a bare number is seconds."""
    found = _TIME.fullmatch(str(text).strip())
    if found is None:
        raise BadWord(f"{str(text)[:40]!r} is no time: 500ms, 30s and 5m are")
    return round(float(found.group(1)) * _MS_OF[found.group(2)])


def seconds(text: object) -> int:
    """As `milliseconds`, at least one second."""
    return max(1, round(milliseconds(text) / 1000))


def port(text: object) -> dict[str, object]:
    """8080 is for HTTP, 6379/tcp for anything else: the fields of the program."""
    found = _PORT.fullmatch(str(text).strip())
    if found is None:
        raise BadWord(f"{str(text)[:40]!r} is no port: 8080 is one for HTTP, 6379/tcp one for what speaks something else")
    return {"port": int(found.group(1)), "protocol": "tcp" if found.group(2) else "http"}


def names(words: Iterable[str]) -> tuple[str, ...]:
    """With commas or without."""
    return tuple(name for word in words for name in word.split(",") if name)


def pairs(words: Iterable[str], what: str, *, environment: Mapping[str, str]) -> dict[str, str]:
    """NAME=value; NAME alone takes its value from the environment."""
    found: dict[str, str] = {}
    for word in words:
        name, given, value = word.partition("=")
        if not given and name not in environment:
            raise BadWord(f"{what} {name[:60]}: the environment has no such variable (or write {name[:60]}=value)")
        found[name] = value if given else environment[name]
    return found


def secrets(wanted: Iterable[str], *, environment: Mapping[str, str]) -> dict[str, str]:
    """Names alone: a value on a command line is seen by everybody on the machine."""
    found: dict[str, str] = {}
    for name in wanted:
        if "=" in name:
            bare = name.partition("=")[0][:60]
            raise BadWord(f"secret {bare}: give the name alone, and the value in your environment, which others cannot read")
        if name not in environment:
            raise BadWord(f"secret {name[:60]}: the environment has no such variable")
        found[name] = environment[name]
    return found
