"""Static files of versions, unpacked from blobs: one directory per manifest, plain files only.

A tree is built under another name and renamed when it is whole, so what has its name is complete. Files are hard
links to the node's blobs: two versions with the same file hold it once. Their time, which is in workerd's ETag, derives from
their content.
"""

import asyncio
import os
import re
import secrets
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from skerry.adapters.blobs.kept import KeptBlobs
from skerry.adapters.runtime.workerd.config import Unsupported
from skerry.core.types.app import AssetFile, Assets
from skerry.core.types.ids import Digest
from skerry.kit.record import decode

FILES_MAX = 100_000  # Cloudflare's highest plan; the border asks for fewer
PATH_BYTES_MAX = 2000
NAME_BYTES_MAX = 255  # of one segment: the file system's
RULES_MAX = 100  # header rules that workerd reads; the rest it skips

# What workerd sends by itself (1.20261117). Others get no Content-Type from it, and one by a header rule of ours.
TYPED_BY_WORKERD = frozenset(
    re.findall(
        r"\w+",
        "apng atom avif bmp cjs css csv eot flac gif gz htm html ico ics jpeg jpg js json jsonld m4a map md mjs mov mp3 mp4 oga"
        " ogg ogv otf pdf png rss svg tar ttf txt wasm wav webm webmanifest webp woff woff2 xml zip",
    )
)
UNTYPED = "application/null"  # wrangler's way to say that there is none
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9._~/@+-]*")  # means the same as a rule's pattern and as a path
_CONTENT_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+(; ?[\w-]+=[\w.-]+)*")


class Trees:
    """`directory/<digest of manifest>/…`, for files of apps that run here."""

    def __init__(self, directory: Path, blobs: KeptBlobs) -> None:
        self._directory = directory
        self._blobs = blobs
        self._building: dict[Digest, frozenset[Digest]] = {}

    def path(self, assets: Assets) -> Path:
        return self._directory / self._blobs.path(assets.manifest).name

    async def ensure(self, assets: Assets) -> tuple[AssetFile, ...]:
        """The files of `assets`, unpacked. Raises `Unsupported` (a path that cannot be a file), or what fetching raises."""
        files = read_manifest(await self._blobs.get(assets.manifest))
        path = self.path(assets)
        if not await asyncio.to_thread(path.is_dir):
            self._building[assets.manifest] = frozenset(file.digest for file in files)
            try:
                await self._blobs.ensure_all(file.digest for file in files)
                await asyncio.to_thread(self._build, path, files)
            finally:
                self._building.pop(assets.manifest, None)
        return files

    def building(self) -> frozenset[Digest]:
        """Blobs that a tree is about to be made of."""
        return frozenset[Digest]().union(*self._building.values())

    def keep_only(self, manifests: frozenset[Digest]) -> None:
        """Remove the rest, and what a killed agent left half built."""
        for path in self._directory.iterdir():
            if path.name not in manifests:
                shutil.rmtree(path, ignore_errors=True)

    async def collect(self, needed: Callable[[], frozenset[Digest]]) -> None:
        """As `keep_only`, but while others build: what is needed is asked again for each tree."""
        for name in sorted(await asyncio.to_thread(os.listdir, self._directory)):
            if not name.startswith(".") and name not in needed():
                gone = self._directory / f".{name}.{secrets.token_hex(4)}"
                (self._directory / name).rename(gone)
                await asyncio.to_thread(shutil.rmtree, gone, ignore_errors=True)

    def _build(self, path: Path, files: tuple[AssetFile, ...]) -> None:
        building = self._directory / f".{path.name}.{secrets.token_hex(4)}"
        try:
            for file in files:
                self._place(file, building / file.path[1:])
            building.mkdir(exist_ok=True)
            for directory in (building, *(found for found in building.rglob("*") if found.is_dir())):
                directory.chmod(0o755)  # read by the uid of the assets process
            building.rename(path)
        except FileExistsError as error:
            raise Unsupported(f"asset {error.filename2 or error.filename}: a file and a directory have the same name") from error
        finally:
            shutil.rmtree(building, ignore_errors=True)

    def _place(self, file: AssetFile, target: Path) -> None:
        source = self._blobs.path(file.digest)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source, target)
            except FileExistsError:
                raise
            except OSError:  # too many links, or another file system
                shutil.copyfile(source, target)
        except (NotADirectoryError, FileExistsError) as error:
            raise Unsupported(f"asset {file.path}: a file and a directory have the same name") from error
        target.chmod(0o444)
        mtime_ns = asset_mtime_ns(file.digest)
        os.utime(target, ns=(mtime_ns, mtime_ns))


def asset_mtime_ns(digest: Digest) -> int:
    """The time that an asset with this content has, in every city.

    workerd's ETag is made of a file's path, size and time: only the time can tell one content from another.
    56 bits of the digest are two years after 1970 at most.
    """
    return int(digest[:14], 16)


def read_manifest(data: bytes) -> tuple[AssetFile, ...]:
    """Checked again here, whoever wrote it: these become names on this machine's disk. Raises `Unsupported`."""
    files = decode(data, tuple[AssetFile, ...])
    if len(files) > FILES_MAX:
        raise Unsupported(f"{len(files)} assets; at most {FILES_MAX} are served")
    for file in files:
        if not _safe(file.path):
            raise Unsupported(f"asset {file.path[:200]!r}: not a path that can be served")
    return files


def content_type_rules(files: tuple[AssetFile, ...], headers: str) -> str:
    """Header rules for files whose type workerd does not know, at most as many as there is room for.

    None if the app has rules for Content-Type itself: workerd would join both. A type that too many files have is
    given by extension, which also holds for a path that is not there.
    """
    if "content-type" in headers.lower():
        return ""
    untyped = [file for file in files if _needs_rule(file)]
    room = RULES_MAX - sum(1 for line in headers.splitlines() if line.startswith(("/", "https://")))
    if len(untyped) <= room:
        rules = [(file.path, file.content_type) for file in untyped]
    else:
        counted = Counter((PurePosixPath(file.path).suffix, file.content_type) for file in untyped)
        common = sorted(counted, key=lambda pair: (-counted[pair], str(pair)))
        rules = [(f"/*{suffix}", kind) for suffix, kind in common if suffix]
    return "".join(f"{path}\n  Content-Type: {kind}\n" for path, kind in rules[: max(0, room)])


def _needs_rule(file: AssetFile) -> bool:
    kind = file.content_type
    if kind is None or kind == UNTYPED or not _CONTENT_TYPE.fullmatch(kind) or not _PLAIN_PATH.fullmatch(file.path):
        return False
    return PurePosixPath(file.path).suffix[1:].lower() not in TYPED_BY_WORKERD


def _safe(path: str) -> bool:
    encoded = path.encode(errors="replace")
    segments = path.split("/")
    return (
        path.startswith("/")
        and len(encoded) <= PATH_BYTES_MAX
        and "\0" not in path
        and "\\" not in path
        and all(
            segment not in ("", ".", "..") and len(segment.encode(errors="replace")) <= NAME_BYTES_MAX for segment in segments[1:]
        )
        and path.isprintable()
    )
