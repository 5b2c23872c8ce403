"""Whether something accepts TCP connections at an address."""

import asyncio

PROBE_S_MAX = 0.3  # inside a site a connect takes well under a millisecond


async def accepts_connections(address: str) -> bool:
    """Connect to host:port and close at once."""
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(PROBE_S_MAX):
            _, writer = await asyncio.open_connection(host, int(port))
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
