"""Whether something accepts TCP connections at an address."""

import asyncio
from typing import Literal

PROBE_S_MAX = 0.3  # inside a site a connect takes well under a millisecond
FAR_S_MAX = 1.5  # around the world, with a first packet that was lost


async def try_connect(address: str, *, within_s: float = PROBE_S_MAX) -> Literal["accepts", "refuses", "silent"]:
    """Connect to host:port and close at once. refuses: the machine answers, and nobody listens there."""
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(within_s):
            _, writer = await asyncio.open_connection(host, int(port))
    except ConnectionRefusedError:
        return "refuses"
    except (OSError, TimeoutError):
        return "silent"
    writer.close()
    return "accepts"


async def answers(address: str) -> bool:
    """Whether another site does."""
    return await try_connect(address, within_s=FAR_S_MAX) == "accepts"
