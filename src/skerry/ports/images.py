"""Images on a node: from blobs to root file systems.

Contract (suite: `skerry.testing.contracts.images`):

- `prepare` fetches what is missing and unpacks it, once for each layer whoever shares it; idempotent, and safe to be killed in:
  what is half done is done again or removed. Everything is checked against its digest before use. Nothing in a layer (links,
  devices, names with `..`, sizes, nesting of compression) makes a file outside the image's own tree or fills the disk.
- `mount` gives an instance a root file system of its own whose lower layers are shared and never change. `unmount` is idempotent
  and leaves nothing of the instance.
- `collect` keeps what `keep` names and what instances use, and otherwise removes what was used longest ago until all images
  together are within `budget_mib`.
- errors: `BadImage` is the image's own fault (digest mismatch, corrupt layer, wrong architecture, too large), for its deployer;
  `ImagesUnavailable` the machine's or the link's, worth another try.
"""

from pathlib import Path
from typing import Protocol

from skerry.core.types.ids import Digest
from skerry.core.types.program import Image
from skerry.kit.record import Record


class ImageError(Exception):
    """The family of this port's errors."""


class BadImage(ImageError):
    """Will never run: for its deployer."""


class ImagesUnavailable(ImageError):
    """The node cannot now; the text says why, and what to do."""


class ImageConfig(Record):
    """What of an OCI image configuration decides how it runs."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: tuple[str, ...] = ()  # NAME=value
    working_dir: str = "/"
    user: str = ""
    stop_signal: str = "SIGTERM"
    exposed_ports: tuple[int, ...] = ()
    architecture: str = "amd64"


class ImageUse(Record):
    """One image on this node's disk."""

    manifest: Digest
    name: str
    disk_mib: int
    instances: int = 0


class Images(Protocol):
    async def attach(self, known: frozenset[str]) -> None:
        """Before all else, once. Mounts of instances outside `known` are removed."""
        ...

    async def prepare(self, image: Image) -> ImageConfig: ...

    async def mount(self, instance_id: str, image: Image, *, writable_mib: int) -> Path:
        """The directory of the instance's root file system. Idempotent by instance."""
        ...

    async def unmount(self, instance_id: str) -> None: ...

    async def disk(self, image: Image) -> Path:
        """A read-only ext4 image of the root file system, for microVMs; made once, shared, and not touched again: by its times
        engines tell whether it is the one that they know. Any user may read the file (mode 0644) where he gets it bound; the
        directories above it keep all others out."""
        ...

    def present(self) -> tuple[ImageUse, ...]: ...

    async def collect(self, keep: frozenset[Digest], *, budget_mib: int) -> None:
        """`keep` are manifests."""
        ...

    async def aclose(self) -> None: ...
