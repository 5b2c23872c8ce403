"""A city that is cut off can start what it was told to run, on any of its nodes."""

from pathlib import Path

from skerry.adapters.blobs.sitecopies import SiteCopies
from skerry.core.types.app import AssetFile, Assets, Version
from skerry.core.types.ids import Digest
from skerry.kit.hashing import content_digest
from skerry.kit.record import encode
from skerry.ports.links import Unreachable
from skerry.testing.builders import make_version

PAGE = b"<h1>hello</h1>"
MANIFEST = encode((AssetFile(path="/index.html", digest=Digest(content_digest(PAGE)), size=len(PAGE)),))


class Above:
    """Control's blobs, which may be out of reach."""

    def __init__(self) -> None:
        self.blobs = {content_digest(data): data for data in (PAGE, MANIFEST, b"other")}
        self.reachable = True

    async def fetch(self, digest: Digest) -> bytes:
        if not self.reachable:
            raise Unreachable("cut off")
        return self.blobs[digest]


def version_with_assets() -> Version:
    from msgspec.structs import replace

    assets = Assets(manifest=Digest(content_digest(MANIFEST)), file_count=1, total_bytes=len(PAGE))
    return replace(make_version(), worker=None, bindings=(), assets=assets)


async def test_what_a_site_was_told_to_run_is_there_when_it_is_cut_off(tmp_path: Path) -> None:
    above = Above()
    copies = SiteCopies(tmp_path / "blobs", above.fetch)
    await copies.follow([version_with_assets()])
    above.reachable = False
    assert await copies.get(Digest(content_digest(PAGE))) == PAGE
    assert await SiteCopies(tmp_path / "blobs", above.fetch).get(Digest(content_digest(MANIFEST))) == MANIFEST
    assert await copies.get(Digest(content_digest(b"other"))) is None


async def test_what_nothing_refers_to_any_more_goes(tmp_path: Path) -> None:
    above = Above()
    copies = SiteCopies(tmp_path / "blobs", above.fetch)
    await copies.follow([version_with_assets()])
    await copies.follow([])
    assert list((tmp_path / "blobs").iterdir()) == []


async def test_copies_stay_while_their_number_cannot_be_known(tmp_path: Path) -> None:
    above = Above()
    copies = SiteCopies(tmp_path / "blobs", above.fetch)
    await copies.get(Digest(content_digest(b"other")))
    above.reachable = False
    await copies.follow([version_with_assets()])
    assert await copies.get(Digest(content_digest(b"other"))) == b"other"
