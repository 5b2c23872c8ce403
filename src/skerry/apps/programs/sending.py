"""An image's way from its source to control: what is not there yet, blob by blob."""

from collections.abc import AsyncIterator, Callable, Iterator

import anyio
import anyio.from_thread
import anyio.to_thread

from skerry.adapters.imagesources.opening import open_source
from skerry.apps.client import Client, ClientError
from skerry.core.types.program import Image
from skerry.ports.imagesources import Source, SourceError

Progress = Callable[[str, int, int], None]
"""(what, bytes so far, bytes in all)"""


def send_image(client: Client, account: str, reference: str, *, architecture: str, progress: Progress) -> Image:
    """Everything of it that the account has not brought yet. Raises `ClientError`."""

    async def work() -> Image:
        source = await open_source(reference, architecture=architecture)
        try:
            await _send(client, account, source, progress)
            return source.image
        finally:
            await source.aclose()

    try:
        return anyio.run(work)
    except SourceError as error:
        raise ClientError(
            str(error), hint="an image is a file (web.oci.tar), a directory in OCI layout, or host/name:tag in a registry"
        ) from error


async def _send(client: Client, account: str, source: Source, progress: Progress) -> None:
    image = source.image
    sizes = {layer.digest: layer.size for layer in image.layers}
    missing = set(await anyio.to_thread.run_sync(client.missing_blobs, account, sorted(image.blobs())))
    # The manifest last: with it the image is whole.
    order = [digest for digest in (*(layer.digest for layer in image.layers), image.config, image.manifest) if digest in missing]
    total, sent = sum(sizes.get(digest, 0) for digest in order), 0
    for digest in dict.fromkeys(order):
        begin = sent

        def counted(stream: AsyncIterator[bytes], begin: int = begin) -> AsyncIterator[bytes]:
            return _counted(stream, lambda done: progress(image.name, min(total, begin + done), total))

        chunks = counted(source.blob(digest))
        await anyio.to_thread.run_sync(client.put_blob, account, digest, _from_thread(chunks))
        sent = begin + sizes.get(digest, 0)
    progress(image.name, total, total)


async def _counted(stream: AsyncIterator[bytes], tell: Callable[[int], None]) -> AsyncIterator[bytes]:
    done = 0
    async for chunk in stream:
        done += len(chunk)
        tell(done)
        yield chunk


def _from_thread(stream: AsyncIterator[bytes]) -> Iterator[bytes]:
    """The stream, read from a worker thread of the loop that it belongs to."""

    async def step() -> bytes | None:
        return await anext(stream, None)

    while (chunk := anyio.from_thread.run(step)) is not None:
        yield chunk
