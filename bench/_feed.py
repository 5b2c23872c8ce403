"""Keeps servers busy: `python _feed.py HOST:PORT …` has two requests under way with each of them, until it is ended.

A process of its own, as `_paced.py` is: those who ask the greedy are no part of the node, and nobody measured waits for them.
"""

import asyncio
import contextlib
import sys

AT_ONCE = 2  # so that the next one is there when one is done
PAUSE_S = 0.1  # after one that failed


async def feed(address: str) -> None:
    host, _, port = address.rpartition(":")
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(f"GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
            if await reader.read():
                writer.close()
                continue
        await asyncio.sleep(PAUSE_S)


async def main(addresses: list[str]) -> None:
    await asyncio.gather(*(feed(address) for address in addresses for _ in range(AT_ONCE)))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(sys.argv[1:]))
