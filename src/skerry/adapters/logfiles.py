"""Reading logs that others write: the end of them, and what comes. A log is a row of files, the oldest first, since it may have
been rotated (see `skerry.adapters.process.detached.trim_log`) or be one file for each process.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

CHUNK_BYTES = 64 << 10
LOOK_S = 0.2  # for what came since; a log has no event that works on every file system

Files = Callable[[], Sequence[Path] | None]
"""What the log consists of now; None when it is over."""


async def read_log(files: Files, *, tail_bytes: int, follow: bool) -> AsyncIterator[bytes]:
    """The last `tail_bytes`; with `follow` then what comes, until the log is over. An emptied file is read from its start."""
    at: dict[Path, int] = {}
    skipped = max(0, sum(_size(path) for path in files() or ()) - tail_bytes)
    for path in files() or ():
        at[path] = min(skipped, _size(path))
        skipped -= at[path]
    while (current := files()) is not None:
        moved = False
        for path in current:
            at[path] = 0 if _size(path) < at.get(path, 0) else at.get(path, 0)
            while data := _read(path, at[path]):
                at[path] += len(data)
                moved = True
                yield data
        if not follow:
            return
        if not moved:
            await asyncio.sleep(LOOK_S)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _read(path: Path, at: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(at)
            return file.read(CHUNK_BYTES)
    except FileNotFoundError:
        return b""
