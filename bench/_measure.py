"""What benches share: runs of wrk, rounds, and results that are printed as a table and written as JSON."""

import asyncio
import json
import math
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from skerry.adapters import tools


class Wrk:
    """One run of wrk. Latencies in ms, `rate` in requests per second."""

    def __init__(self, text: str) -> None:
        self.rate = float(_found(r"Requests/sec:\s+([\d.]+)", text))
        self.requests = int(_found(r"(\d+) requests in", text))
        self.p50, self.p99 = (_ms(_found(rf"{percent}%\s+([\d.]+[a-z]+)", text)) for percent in (50, 99))
        errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
        bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
        self.failed = (sum(map(int, errors.groups())) if errors else 0) + (int(bad.group(1)) if bad else 0)


async def wrk(address: str, host: str, *, connections: int, seconds: float) -> Wrk:
    process = await asyncio.create_subprocess_exec(
        tools.find_wrk().path, "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "-H", f"Host: {host}", f"http://{address}/",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    return Wrk((await process.communicate())[0].decode())


class Report:
    """Tables, claims and notes: printed as they come, and written to `path` at the end if there is one."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._tables: dict[str, list[dict[str, Any]]] = {}
        self._claims: list[dict[str, Any]] = []
        self._notes: list[str] = []

    def table(self, name: str, rows: list[dict[str, Any]]) -> None:
        """`rows` have the same keys; values are shown as they are, numbers to the right."""
        self._tables[name] = rows
        print(f"\n  {name}")
        heads = list(rows[0])
        cells = [heads, *[[_shown(row[head]) for head in heads] for row in rows]]
        widths = [max(len(line[column]) for line in cells) for column in range(len(heads))]
        for line in cells:
            first, *rest = (text.ljust(width) if at == 0 else text.rjust(width) for at, (text, width) in _paired(line, widths))
            print("  " + "  ".join([first, *rest]), flush=True)

    def claim(self, text: str, value: float, *, at_most: float = math.inf, at_least: float = -math.inf, unit: str = "") -> None:
        holds = at_least <= value <= at_most
        goal = f"at most {at_most:g}" if at_most != math.inf else f"at least {at_least:g}"
        self._claims.append({"claim": text, "value": value, "goal": goal, "unit": unit, "holds": holds})
        print(f"  {'ok  ' if holds else 'MISS'}  {text}: {_shown(value)}{f' {unit}' if unit else ''} (goal: {goal})", flush=True)

    def note(self, text: str) -> None:
        self._notes.append(text)
        print(f"  {text}", flush=True)

    def close(self) -> int:
        """The exit status: 1 if a claim does not hold."""
        if self._path is not None:
            self._path.write_text(json.dumps({"tables": self._tables, "claims": self._claims, "notes": self._notes}, indent=1))
        return 0 if all(claim["holds"] for claim in self._claims) else 1


def rotated(names: Sequence[str], number: int) -> list[str]:
    """All of them, beginning with another one in each round."""
    first = number % len(names)
    return [*names[first:], *names[:first]]


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


def spread(values: Sequence[float]) -> str:
    """Least and greatest."""
    return f"{_shown(min(values))}-{_shown(max(values))}"


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def _paired(line: list[str], widths: list[int]) -> Iterable[tuple[int, tuple[str, int]]]:
    return enumerate(zip(line, widths, strict=True))


def _shown(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}"


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match, text
    return match.group(1)


def _ms(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)([a-z]+)", text).groups()
    return float(number) * {"us": 0.001, "ms": 1, "s": 1000}[unit]
