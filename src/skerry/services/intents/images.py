"""Images as developers bring them: blobs first, each once, then a manifest that names them.

    missing(digests) → what to send → receive(digest, bytes) … → image(manifest)

Which blobs an account has brought is on record: whoever knows the digest of another's layer has not got its content
by that. What is brought and not deployed is forgotten after a day, as the blobs themselves are.
"""

from collections.abc import AsyncIterator, Mapping
from typing import TypeVar, final

import msgspec

from skerry.core.types.app import Version
from skerry.core.types.ids import AccountId, Digest
from skerry.core.types.program import Compression, Image, Layer
from skerry.kit import record
from skerry.kit.record import Record
from skerry.ports.blobs import Blobs, Corrupt, NotFound, TooLarge
from skerry.ports.clock import Clock
from skerry.ports.store import Delete, Store, entries_under
from skerry.services.control import keys
from skerry.services.intents import limits
from skerry.services.intents.errors import IntentError, Refusal

FORGET_MS = 24 * 3_600_000
FORGOTTEN_AT_ONCE = 64
MANIFEST_TYPES = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
LAYER_TYPES: Mapping[str, Compression] = {
    "application/vnd.oci.image.layer.v1.tar": "none",
    "application/vnd.oci.image.layer.v1.tar+gzip": "gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd": "zstd",
    "application/vnd.docker.image.rootfs.diff.tar": "none",
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "gzip",
}
ALGORITHM = "sha256:"
HEX = frozenset("0123456789abcdef")

T = TypeVar("T")


class Brought(Record):
    """A blob that an account has brought."""

    size: int
    at_ms: int


class _Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    """OCI image specification, descriptor; what else is in it does not matter here."""

    digest: str
    size: int
    media_type: str = ""


class _Manifest(msgspec.Struct, frozen=True, rename="camel"):
    config: _Descriptor
    layers: tuple[_Descriptor, ...]
    schema_version: int = 2
    media_type: str = MANIFEST_TYPES[0]


class _Rootfs(msgspec.Struct, frozen=True):
    diff_ids: tuple[str, ...]


class _Config(msgspec.Struct, frozen=True):
    architecture: str
    rootfs: _Rootfs
    os: str = "linux"


@final
class Images:
    def __init__(self, store: Store, blobs: Blobs, clock: Clock) -> None:
        self._store = store
        self._blobs = blobs
        self._clock = clock

    async def missing(self, account: AccountId, digests: frozenset[Digest]) -> frozenset[Digest]:
        """Those that the account has to send. Raises `IntentError`."""
        if len(digests) > limits.IMAGE_LAYERS_MAX + 2:
            raise IntentError(Refusal.TOO_MANY, f"An image has at most {limits.IMAGE_LAYERS_MAX} layers.")
        for digest in digests:
            check_digest(digest)
        brought = {digest for digest in digests if await self._store.get(keys.image_blob(account, digest)) is not None}
        return (digests - brought) | await self._blobs.missing(frozenset(brought))

    async def receive(self, account: AccountId, digest: Digest, chunks: AsyncIterator[bytes]) -> int:
        """Keep one blob; its size. On the record of the account when this returns. Raises `IntentError`."""
        check_digest(digest)
        await self._forget(account)
        try:
            size = await self._blobs.put_stream(chunks, digest=digest, bytes_max=limits.IMAGE_BLOB_BYTES_MAX)
        except Corrupt as error:
            raise _invalid(f"The blob is not what its digest says: {error}.") from error
        except TooLarge as error:
            raise IntentError(Refusal.TOO_LARGE, f"A layer has at most {limits.IMAGE_BLOB_BYTES_MAX >> 20:,} MiB.") from error
        brought = Brought(size=size, at_ms=self._clock.now_ms())
        await self._store.put(keys.image_blob(account, digest), record.encode(brought))
        return size

    async def image(self, account: AccountId, manifest: Digest, name: str) -> Image:
        """The image of that manifest, all of it there; raises `IntentError` with what is wrong with it."""
        lacking = await self.missing(account, frozenset((manifest,)))
        if lacking:
            raise _invalid(f"The image {name!r} is not here: send its blobs first.")
        found = _decoded(await self._small(manifest, "manifest"), _Manifest, "manifest")
        described = _check_manifest(found, name)
        lacking = await self.missing(account, described)
        if lacking:
            raise _invalid(
                f"{len(lacking)} blob(s) of the image {name!r} are not here, {min(lacking)} among them: send them first."
            )
        config = _decoded(await self._small(_digest(found.config), "configuration"), _Config, "configuration")
        return _joined(found, config, manifest, name)

    async def _small(self, digest: Digest, what: str) -> bytes:
        """A blob that people write, not a layer."""
        data = bytearray()
        try:
            async for chunk in self._blobs.stream(digest):
                data += chunk
                if len(data) > limits.IMAGE_JSON_BYTES_MAX:
                    raise _invalid(f"The image's {what} is larger than {limits.IMAGE_JSON_BYTES_MAX >> 20} MiB.")
        except NotFound as error:
            raise _invalid(f"The image's {what} is gone: send it again.") from error
        return bytes(data)

    async def _forget(self, account: AccountId) -> None:
        """Records of blobs that were brought long ago and are in no version of the account's."""
        before_ms = self._clock.now_ms() - FORGET_MS
        prefix = f"{keys.IMAGE_BLOBS}{account}/"
        old = [e.key async for e in entries_under(self._store, prefix) if record.decode(e.value, Brought).at_ms < before_ms]
        if not old:
            return
        used: set[Digest] = set()
        async for entry in entries_under(self._store, f"{keys.VERSIONS}{account}/"):
            used |= record.decode(entry.value, Version).process_digests()
        gone = [key for key in old if key.rpartition("/")[2] not in used]
        if gone:
            await self._store.transact([], [Delete(key=key) for key in gone[:FORGOTTEN_AT_ONCE]])


def check_digest(digest: str) -> None:
    """Raises `IntentError`."""
    if len(digest) != 64 or not set(digest) <= HEX:
        raise _invalid(f"{digest[:80]!r} is no SHA-256 digest in hex.")


def _check_manifest(found: _Manifest, name: str) -> frozenset[Digest]:
    """What it names, if it is one that can be run."""
    if found.schema_version != 2 or found.media_type not in MANIFEST_TYPES:
        raise _invalid(f"{name!r} is not an image but {found.media_type[:80] or 'something else'}: name one platform's manifest.")
    if not 1 <= len(found.layers) <= limits.IMAGE_LAYERS_MAX:
        raise _invalid(f"The image {name!r} has {len(found.layers)} layers; 1 to {limits.IMAGE_LAYERS_MAX} are allowed.")
    total = sum(layer.size for layer in found.layers)
    if total > limits.IMAGE_BYTES_MAX or any(layer.size < 0 for layer in found.layers):
        raise IntentError(
            Refusal.TOO_LARGE,
            f"The image {name!r} has {total >> 20:,} MiB; at most {limits.IMAGE_BYTES_MAX >> 20:,} are allowed.",
        )
    for layer in found.layers:
        if layer.media_type not in LAYER_TYPES:
            raise _invalid(f"The image {name!r} has a layer of the type {layer.media_type[:120]!r}, which cannot be unpacked.")
    return frozenset((_digest(found.config), *(_digest(layer) for layer in found.layers)))


def _joined(found: _Manifest, config: _Config, manifest: Digest, name: str) -> Image:
    if config.os != "linux":
        raise _invalid(f"The image {name!r} is for {config.os[:40]}; only linux runs here.")
    diff_ids = config.rootfs.diff_ids
    if len(diff_ids) != len(found.layers):
        raise _invalid(f"The image {name!r} has {len(found.layers)} layers, and its configuration names {len(diff_ids)}.")
    return Image(
        name=name,
        manifest=manifest,
        config=_digest(found.config),
        layers=tuple(
            Layer(digest=_digest(layer), diff_id=_bare(diff_id), size=layer.size, compression=LAYER_TYPES[layer.media_type])
            for layer, diff_id in zip(found.layers, diff_ids, strict=True)
        ),
        architecture=config.architecture,
        os=config.os,
    )


def _decoded(data: bytes, as_type: type[T], what: str) -> T:
    try:
        return msgspec.json.decode(data, type=as_type)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _invalid(f"The image's {what} is not one: {str(error)[:200]}.") from error


def _digest(descriptor: _Descriptor) -> Digest:
    return _bare(descriptor.digest)


def _bare(text: str) -> Digest:
    if not text.startswith(ALGORITHM):
        raise _invalid(f"The digest {text[:80]!r} is not a SHA-256.")
    check_digest(text.removeprefix(ALGORITHM))
    return Digest(text.removeprefix(ALGORITHM))


def _invalid(message: str) -> IntentError:
    return IntentError(Refusal.INVALID, message)
