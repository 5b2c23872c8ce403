"""The documents that describe an image (OCI image specification, and Docker's of the same shape), read with limits.

What others wrote is checked here once: digests are SHA-256, sizes are small enough, compressions are known.
"""

from typing import TypeVar

import msgspec

from skerry.core.types.ids import Digest
from skerry.core.types.program import Compression, Image, Layer
from skerry.kit.hashing import content_digest
from skerry.ports.imagesources import BadSource

DOCUMENT_BYTES_MAX = 4 << 20  # manifests and configurations; registries refuse larger ones too
LAYERS_MAX = 127  # overlayfs takes more, no builder makes more
LAYER_BYTES_MAX = 16 << 30
MANIFESTS_MAX = 1000  # in an index
INDEX_DEPTH_MAX = 3

INDEX_TYPES = frozenset(("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"))
MANIFEST_TYPES = frozenset(("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"))
LAYER_TYPES: dict[str, Compression] = {
    "application/vnd.oci.image.layer.v1.tar": "none",
    "application/vnd.oci.image.layer.v1.tar+gzip": "gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd": "zstd",
    "application/vnd.docker.image.rootfs.diff.tar": "none",
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": "zstd",
}
REFERENCE_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"

T = TypeVar("T", bound=msgspec.Struct)


class Platform(msgspec.Struct, frozen=True):
    architecture: str = ""
    os: str = ""
    variant: str = ""


class Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    digest: str
    size: int = 0
    media_type: str = ""
    platform: Platform | None = None
    annotations: dict[str, str] | None = None

    @property
    def hex(self) -> Digest:
        return plain_digest(self.digest)

    @property
    def name(self) -> str:
        """What the writer of an archive called it; empty if it did not."""
        notes = self.annotations or {}
        return notes.get(CONTAINERD_NAME) or notes.get(REFERENCE_NAME, "")


class Index(msgspec.Struct, frozen=True):
    manifests: tuple[Descriptor, ...]


class Manifest(msgspec.Struct, frozen=True):
    config: Descriptor
    layers: tuple[Descriptor, ...]


class Rootfs(msgspec.Struct, frozen=True):
    diff_ids: tuple[str, ...] = ()


class Configuration(msgspec.Struct, frozen=True):
    architecture: str = ""
    os: str = ""
    rootfs: Rootfs = Rootfs()


def parse(data: bytes, as_type: type[T], *, what: str) -> T:
    """Unknown fields are others' business and skipped. Raises `BadSource`."""
    if len(data) > DOCUMENT_BYTES_MAX:
        raise BadSource(f"{what}: more than {DOCUMENT_BYTES_MAX >> 20} MiB")
    try:
        return msgspec.json.decode(data, type=as_type)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadSource(f"{what}: {error}") from error


def plain_digest(text: str) -> Digest:
    """The hex part of `sha256:…`."""
    kind, _, digits = text.partition(":")
    if kind != "sha256" or len(digits) != 64 or not set(digits) <= set("0123456789abcdef"):
        raise BadSource(f"{text[:100]!r} is no SHA-256 digest; only those are taken")
    return Digest(digits)


def is_index(media_type: str, data: bytes) -> bool:
    """By its type, or, where older writers left that out, by what is in it."""
    if media_type in INDEX_TYPES or media_type in MANIFEST_TYPES:
        return media_type in INDEX_TYPES
    return b'"manifests"' in data[:DOCUMENT_BYTES_MAX] and b'"layers"' not in data[:DOCUMENT_BYTES_MAX]


def choose(index: Index, *, architecture: str, name: str = "") -> Descriptor:
    """The one manifest (or index) for linux on `architecture`; raises `BadSource` naming what is there."""
    if len(index.manifests) > MANIFESTS_MAX:
        raise BadSource(f"an index of {len(index.manifests)} images; at most {MANIFESTS_MAX} are looked at")
    named = [entry for entry in index.manifests if not name or name in (entry.name, entry.name.rpartition(":")[2])]
    if name and not named:
        raise BadSource(f"no image is called {name!r} there; there are: {_listed(index.manifests)}")
    fitting = [entry for entry in named if _fits(entry.platform, architecture)]
    exact = [entry for entry in fitting if entry.platform is not None]
    found = list({entry.digest: entry for entry in exact or fitting}.values())
    if not found:
        there = ", ".join(sorted({_platform(entry.platform) for entry in named})) or "nothing"
        raise BadSource(f"no image for linux/{architecture}; there is: {there}")
    if len(found) > 1:
        raise BadSource(f"several images; say which, as in path#name: {_listed(tuple(found))}")
    return found[0]


def describe(name: str, manifest_bytes: bytes, config_bytes: bytes, *, architecture: str) -> Image:
    """The record of an image whose manifest and configuration are at hand. Raises `BadSource`."""
    manifest = parse(manifest_bytes, Manifest, what="manifest")
    config = parse(config_bytes, Configuration, what="image configuration")
    diff_ids = tuple(plain_digest(diff_id) for diff_id in config.rootfs.diff_ids)
    if (config.os or "linux") != "linux" or config.architecture != architecture:
        raise BadSource(f"the image is for {config.os or 'linux'}/{config.architecture or '?'}, not linux/{architecture}")
    if content_digest(config_bytes) != manifest.config.hex:
        raise BadSource("the configuration is not the one that the manifest names")
    if not 1 <= len(manifest.layers) <= LAYERS_MAX or len(diff_ids) != len(manifest.layers):
        raise BadSource(f"{len(manifest.layers)} layers for {len(diff_ids)} diff_ids; one each is needed, at most {LAYERS_MAX}")
    layers = tuple(_layer(entry, diff_id) for entry, diff_id in zip(manifest.layers, diff_ids, strict=True))
    return Image(
        name=name,
        manifest=Digest(content_digest(manifest_bytes)),
        config=manifest.config.hex,
        layers=layers,
        architecture=architecture,
    )


def _layer(entry: Descriptor, diff_id: Digest) -> Layer:
    compression = LAYER_TYPES.get(entry.media_type)
    if compression is None:
        raise BadSource(f"layer {entry.digest[:19]}: of type {entry.media_type[:100]!r}, which is not known here")
    if not 0 <= entry.size <= LAYER_BYTES_MAX:
        raise BadSource(f"layer {entry.digest[:19]}: {entry.size} bytes; at most {LAYER_BYTES_MAX >> 30} GiB")
    return Layer(digest=entry.hex, diff_id=diff_id, size=entry.size, compression=compression)


def _fits(platform: Platform | None, architecture: str) -> bool:
    return platform is None or (platform.os == "linux" and platform.architecture == architecture)


def _platform(platform: Platform | None) -> str:
    return "?" if platform is None else f"{platform.os}/{platform.architecture}"


def _listed(entries: tuple[Descriptor, ...]) -> str:
    return ", ".join(entry.name or entry.digest[:19] for entry in entries[:20]) or "none"
