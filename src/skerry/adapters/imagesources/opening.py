"""The one way in: from what a deployer types to a pinned image and its bytes.

source = await open_source("web.tar", architecture="amd64")
for digest in source.image.blobs():
    async for chunk in source.blob(digest): …
await source.aclose()
"""

import platform
from pathlib import Path

from skerry.adapters.imagesources.credentials import Credentials, find_credentials
from skerry.adapters.imagesources.files import open_file_source
from skerry.adapters.imagesources.reference import FileReference, parse_reference
from skerry.adapters.imagesources.registry import open_registry_source
from skerry.ports.imagesources import Source

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def own_architecture() -> str:
    """This machine's, as OCI spells it."""
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


async def open_source(
    reference: str, *, architecture: str, credentials: Credentials | None = None, docker_config: Path | None = None
) -> Source:
    """An OCI archive or directory, a `docker save` archive (`path`, `path#name`), or host/name:tag in a registry.

    Of several platforms that of linux/`architecture` is taken. `credentials` go before what `docker login` left in
    `docker_config` (None: where docker has it). Raises what `skerry.ports.imagesources` names.
    """
    parsed = parse_reference(reference)
    if isinstance(parsed, FileReference):
        return await open_file_source(Path(parsed.path), name=reference, wanted=parsed.name, architecture=architecture)
    known = credentials or await find_credentials(parsed.host, config=docker_config)
    return await open_registry_source(parsed, name=reference, architecture=architecture, credentials=known)
