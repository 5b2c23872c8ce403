"""Writes to a store and prints what was acknowledged, until it is killed or done.

    store_writer.py PATH GROUPS TURNS

Each of GROUPS tasks writes TURNS transactions of three keys, `group/<g>/<0..2>`, all of one value that counts up
from what is there. Lines: `ack <revision> <group> <value>`, `unavailable <group> <value> <what a read then
finds, or "refused">`, `done`.
"""

import os
import sys
from pathlib import Path

import anyio

from skerry.adapters.store.sqlite import SqliteStore
from skerry.ports.store import Check, Put, Unavailable

KEYS = 3


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())  # one system call: a line is there whole or not at all


async def write(store: SqliteStore, group: int, turns: int) -> None:
    keys = [f"group/{group}/{number}" for number in range(KEYS)]
    held = await store.get(keys[0])
    value, revision = (int(held.value), held.revision) if held else (0, 0)
    for next_value in range(value + 1, value + 1 + turns):
        checks = [Check(key=key, revision=revision) for key in keys]
        try:
            revision = await store.transact(checks, [Put(key=key, value=b"%d" % next_value) for key in keys])
        except Unavailable:
            say(f"unavailable {group} {next_value} {await read_back(store, keys[0])}")
            return
        say(f"ack {revision} {group} {next_value}")


async def read_back(store: SqliteStore, key: str) -> str:
    try:
        entry = await store.get(key)
    except Unavailable:
        return "refused"
    return entry.value.decode() if entry else "0"


async def main(path: Path, groups: int, turns: int) -> None:
    store = await SqliteStore.open(path, history_transactions_max=100)
    async with anyio.create_task_group() as tasks:
        for group in range(groups):
            tasks.start_soon(write, store, group, turns)
    await store.aclose()
    say("done")


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
