"""The errors of the ports below, as the runtime port says them."""

import contextlib
from collections.abc import AsyncIterator, Generator

from skerry.ports import sandbox as sandboxes
from skerry.ports.images import ImageError
from skerry.ports.network import NetworkError
from skerry.ports.runtime import NoSuchInstance, Unavailable, Unsupported


@contextlib.contextmanager
def as_runtime_faults(instance_id: str) -> Generator[None]:
    try:
        yield
    except sandboxes.Unsupported as error:
        raise Unsupported(str(error)) from error
    except sandboxes.Gone as error:
        raise NoSuchInstance(f"{instance_id} has just ended") from error
    except (sandboxes.SandboxError, NetworkError, ImageError) as error:
        raise Unavailable(str(error)) from error


async def translated(instance_id: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    with as_runtime_faults(instance_id):
        async for chunk in chunks:
            yield chunk
