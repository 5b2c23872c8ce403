"""Acknowledged writes per second of the embedded store, as a ratio to SQLite itself at the same durability.

    python bench/store.py [--seconds 0.5] [--rounds 15] [--directory DIR]

Both write the same 300-byte value into the same file system with one fsync per commit (WAL, synchronous=FULL).
The peer is a loop over the `sqlite3` module without threads, checks, history or event loop, one row per commit:
the bound for one writer at a time. Concurrent writers of the store share fsyncs, so their ratio can exceed 1.
Sides take turns inside each round, beginning with another one each time, and ratios are taken per round: a noisy
disk hurts both alike.
"""

import argparse
import asyncio
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path

from skerry.adapters.store.sqlite import SqliteStore
from skerry.ports.store import Conflict

VALUE = b"x" * 300
CONCURRENT = 32
KEYS = 1000


def raw(path: Path, seconds: float) -> float:
    """Writes per second."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE entries (key BLOB PRIMARY KEY, revision INTEGER NOT NULL, value BLOB NOT NULL)")
    upsert = (
        "INSERT INTO entries VALUES (?, ?, ?)"
        " ON CONFLICT (key) DO UPDATE SET revision = excluded.revision, value = excluded.value"
    )
    count = 0
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds:
        connection.execute(upsert, (b"k/%d" % (count % KEYS), count, VALUE))
        count += 1
    rate = count / (time.perf_counter() - begin)
    connection.close()
    return rate


async def through_store(path: Path, seconds: float, *, concurrent: int) -> float:
    """Writes per second that `put` acknowledged."""
    store = await SqliteStore.open(path)
    count = 0
    begin = time.perf_counter()

    async def write(writer: int) -> None:
        nonlocal count
        turn = 0
        while time.perf_counter() - begin < seconds:
            await store.put(f"k/{(writer + turn * concurrent) % KEYS}", VALUE)
            turn += 1
            count += 1

    await asyncio.gather(*(write(writer) for writer in range(concurrent)))
    rate = count / (time.perf_counter() - begin)
    await store.aclose()
    return rate


async def contended(path: Path, seconds: float, *, concurrent: int) -> tuple[float, float]:
    """All writers compare-and-set one key: (successes per second, attempts per success)."""
    store = await SqliteStore.open(path)
    await store.put("k", VALUE)
    wins = attempts = 0
    begin = time.perf_counter()

    async def write() -> None:
        nonlocal wins, attempts
        while time.perf_counter() - begin < seconds:
            entry = await store.get("k")
            attempts += 1
            try:
                await store.compare_and_set("k", VALUE, revision=entry.revision if entry else 0)
            except Conflict:
                continue
            wins += 1

    await asyncio.gather(*(write() for _ in range(concurrent)))
    rate = wins / (time.perf_counter() - begin)
    await store.aclose()
    return rate, attempts / wins


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--directory", type=Path, default=None, help="on the disk to measure; default: the temporary one")
    options = parser.parse_args()

    rates: dict[str, list[float]] = {"raw": [], "1": [], "32": [], "contended": []}
    tries: list[float] = []
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="skerry-bench-") as directory:
        for round_ in range(options.rounds):
            place = Path(directory) / str(round_)
            place.mkdir()
            sides = list(rates)
            for side in sides[round_ % len(sides) :] + sides[: round_ % len(sides)]:
                file = place / f"{side}.db"
                if side == "raw":
                    rates[side].append(raw(file, options.seconds))
                elif side == "contended":
                    won, attempts = asyncio.run(contended(file, options.seconds, concurrent=CONCURRENT))
                    rates[side].append(won)
                    tries.append(attempts)
                else:
                    rates[side].append(asyncio.run(through_store(file, options.seconds, concurrent=int(side))))
            print(f"round {round_ + 1}: " + ", ".join(f"{name} {values[-1]:.0f}/s" for name, values in rates.items()))

    print(f"\nmedians of {options.rounds} rounds of {options.seconds} s     writes/s   of raw SQLite")
    names = {"raw": "SQLite, 1 row a commit", "1": "store, 1 writer", "32": f"store, {CONCURRENT} writers"}
    names["contended"] = f"store, {CONCURRENT} on one key"
    for key, name in names.items():
        ratio = statistics.median(rate / base for rate, base in zip(rates[key], rates["raw"], strict=True))
        print(f"{name:38} {statistics.median(rates[key]):8.0f}   {ratio:8.2f}")
    print(f"attempts per success on one key: {statistics.median(tries):.1f}")


if __name__ == "__main__":
    main()
