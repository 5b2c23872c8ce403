"""Whether something accepts TCP connections at an address."""

import asyncio
from typing import Literal

PROBE_S_MAX = 0.3  # inside a site a connect takes well under a millisecond


async def try_connect(address: str) -> Literal["accepts", "refuses", "silent"]:
    """Connect to host:port and close at once. refuses: the machine answers, and nobody listens there."""
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(PROBE_S_MAX):
            _, writer = await asyncio.open_connection(host, int(port))
    except ConnectionRefusedError:
        return "refuses"
    except (OSError, TimeoutError):
        return "silent"
    writer.close()
    return "accepts"
