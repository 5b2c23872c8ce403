"""Where a deployer's images come from: a file, a directory or a registry. For clients; a node only ever sees blobs.

Contract: what `image` names is pinned by digests before the first layer is read, and `blob` ends without an error only when what
it gave has its digest. Credentials go to the host that they are for and nowhere else, never over a plain connection that leaves
this machine.

Errors: `BadSource` is the image's own fault (damaged, none for this architecture, over a limit), `NoSuchSource` says that nothing
of that name is there, `SourceRefused` that its registry wants other credentials, `SourceUnavailable` is worth another try.
"""

from collections.abc import AsyncIterator
from typing import Protocol

from skerry.core.types.ids import Digest
from skerry.core.types.program import Image


class SourceError(Exception):
    """The family of this port's errors."""


class BadSource(SourceError):
    """What is there cannot be used."""


class NoSuchSource(SourceError):
    """Nothing of that name."""


class SourceRefused(SourceError):
    """The registry does not let this caller; the text says how to log in."""


class SourceUnavailable(SourceError):
    """It does not answer."""


class Source(Protocol):
    @property
    def image(self) -> Image: ...

    def blob(self, digest: Digest) -> AsyncIterator[bytes]:
        """One of `image.blobs()`, in pieces of at most about 1 MiB."""
        ...

    async def aclose(self) -> None: ...
