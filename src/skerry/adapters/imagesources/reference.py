"""What a deployer types: a path, or a name in a registry.

web.tar   ./layout   web.tar#name     a file or directory that exists, and which of its images
host/name:tag   host:port/name@sha256:…     in a registry; without a host it is not known in which
"""

import re
from pathlib import Path

from skerry.core.types.ids import Digest
from skerry.kit.record import Record
from skerry.ports.imagesources import BadSource

LENGTH_MAX = 1000
_HOST = re.compile(r"(localhost|[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+|\[[0-9a-fA-F:]+\]|[A-Za-z0-9-]+(?=:\d))(:\d{1,5})?")
_NAME = re.compile(r"[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


class FileReference(Record):
    path: str
    name: str = ""


class RegistryReference(Record):
    """`digest` counts before `tag`."""

    host: str
    name: str
    tag: str = "latest"
    digest: Digest | None = None

    @property
    def version(self) -> str:
        return f"sha256:{self.digest}" if self.digest else self.tag


def parse_reference(text: str) -> FileReference | RegistryReference:
    """What exists as a file is one. Raises `BadSource`, with what would be right."""
    if not text or len(text) > LENGTH_MAX:
        raise BadSource("an image is a file, a directory or host/name:tag")
    path, _, name = text.partition("#")
    if Path(path).exists():
        return FileReference(path=path, name=name)
    if text.startswith(("/", "./", "../", "~")) or path.endswith((".tar", ".tar.gz", ".tgz")):
        raise BadSource(f"{path}: no such file")
    return _registry(text)


def _registry(text: str) -> RegistryReference:
    host, _, rest = text.partition("/")
    if not rest or not _HOST.fullmatch(host):
        raise BadSource(f"{text!r}: neither a file nor host/name:tag; say in which registry it is, as in registry.example/{text}")
    rest, _, digest = rest.partition("@")
    name, _, tag = rest.partition(":")
    if not _NAME.fullmatch(name) or (tag and not _TAG.fullmatch(tag)):
        raise BadSource(f"{text!r}: not a name that a registry has, as in registry.example/team/web:1.2")
    return RegistryReference(host=host, name=name, tag=tag or "latest", digest=_digest(digest) if digest else None)


def _digest(text: str) -> Digest:
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", text):
        raise BadSource(f"{text[:100]!r} is no SHA-256 digest")
    return Digest(text.removeprefix("sha256:"))
