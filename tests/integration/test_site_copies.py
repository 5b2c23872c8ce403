"""A city that is cut off can start what it was told to run, on any of its nodes."""

import socket
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from skerry.adapters.blobs.directory import DirectoryBlobs
from skerry.adapters.blobs.sitecopies import SiteCopies
from skerry.adapters.link.http import HttpSiteLink
from skerry.apps.serving import serving
from skerry.core.types.app import AssetFile, Assets, Version
from skerry.core.types.ids import Digest
from skerry.core.types.slices import NodeReport
from skerry.kit.hashing import content_digest
from skerry.kit.record import encode
from skerry.ports.links import Unreachable
from skerry.services.calls.exchange import Exchange
from skerry.testing.builders import make_version
from skerry.wire.internal.routes import link_app

PAGE = b"<h1>hello</h1>"
MANIFEST = encode((AssetFile(path="/index.html", digest=Digest(content_digest(PAGE)), size=len(PAGE)),))


class Above:
    """Control's blobs, which may be out of reach."""

    def __init__(self) -> None:
        self.blobs = {content_digest(data): data for data in (PAGE, MANIFEST, b"other")}
        self.reachable = True

    async def stream(self, digest: Digest) -> AsyncIterator[bytes]:
        if not self.reachable:
            raise Unreachable("cut off")
        yield self.blobs[digest]


async def got(copies: SiteCopies, digest: Digest) -> bytes:
    return b"".join([chunk async for chunk in await copies.open(digest)])


def version_with_assets() -> Version:
    from msgspec.structs import replace

    assets = Assets(manifest=Digest(content_digest(MANIFEST)), file_count=1, total_bytes=len(PAGE))
    return replace(make_version(), worker=None, bindings=(), assets=assets)


async def test_what_a_site_was_told_to_run_is_there_when_it_is_cut_off(tmp_path: Path) -> None:
    above = Above()
    copies = SiteCopies(tmp_path / "blobs", above.stream)
    await copies.follow([version_with_assets()])
    above.reachable = False
    assert await got(copies, Digest(content_digest(PAGE))) == PAGE
    assert await got(SiteCopies(tmp_path / "blobs", above.stream), Digest(content_digest(MANIFEST))) == MANIFEST
    with pytest.raises(Unreachable, match="cut off"):
        await got(copies, Digest(content_digest(b"other")))


async def test_what_nothing_refers_to_any_more_goes(tmp_path: Path) -> None:
    above = Above()
    copies = SiteCopies(tmp_path / "blobs", above.stream)
    await copies.follow([version_with_assets()])
    await copies.follow([])
    assert list((tmp_path / "blobs").iterdir()) == []


async def test_copies_stay_while_their_number_cannot_be_known(tmp_path: Path) -> None:
    above = Above()
    copies = SiteCopies(tmp_path / "blobs", above.stream)
    await got(copies, Digest(content_digest(b"other")))
    above.reachable = False
    await copies.follow([version_with_assets()])
    assert await got(copies, Digest(content_digest(b"other"))) == b"other"


async def test_a_node_is_told_not_now_of_what_its_site_cannot_ask_for_and_never_that_it_is_not_there(tmp_path: Path) -> None:
    above = Above()
    copies = SiteCopies(tmp_path / "blobs", above.stream)

    async def no_slice(node: str, after: int, wait_ms: int) -> None: ...

    app = link_app(
        "nodes",
        NodeReport,
        secret="joined",
        known=lambda node: True,
        caller_of=lambda report: report.node.id,
        hear=lambda report: None,
        next_slice=no_slice,
        blob=copies.open,
        exchange=Exchange(),
    )
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://site", headers={"authorization": "Bearer joined"}
    ) as node:
        above.reachable = False
        refused = await node.get(f"/blobs/{content_digest(b'other')}")
        assert refused.status_code == 503
        assert "cut off" in refused.text
        above.reachable = True
        assert (await node.get(f"/blobs/{content_digest(b'other')}")).content == b"other"


async def test_a_stream_of_another_content_or_cut_short_keeps_nothing(tmp_path: Path) -> None:
    async def wrong(digest: Digest) -> AsyncIterator[bytes]:
        yield b"something"
        yield b" else"

    async def broken(digest: Digest) -> AsyncIterator[bytes]:
        yield PAGE[:3]
        raise Unreachable("cut off")

    for stream in (wrong, broken):
        with pytest.raises(Unreachable):
            await SiteCopies(tmp_path / "blobs", stream).open(Digest(content_digest(PAGE)))
        assert list((tmp_path / "blobs").iterdir()) == []


async def test_what_is_served_in_pieces_is_kept_whole(tmp_path: Path) -> None:
    """From one plane to the next over a real connection, more than any buffer between them takes."""
    big = bytes(range(256)) * 40_000
    blobs = await DirectoryBlobs.open(tmp_path / "control")
    digest = await blobs.put(big)

    async def blob(wanted: Digest) -> AsyncIterator[bytes] | None:
        return blobs.stream(wanted) if await blobs.has(wanted) else None

    async def no_slice(node: str, after: int, wait_ms: int) -> None: ...

    links = link_app(
        "nodes", NodeReport, secret="joined", known=lambda node: True, caller_of=lambda report: report.node.id,
        hear=lambda report: None, next_slice=no_slice, blob=blob, exchange=Exchange(),
    )  # fmt: skip
    listener = socket.create_server(("127.0.0.1", 0))
    async with serving(Starlette(routes=[Mount("/internal/v1", app=links)]), listener):
        link = HttpSiteLink(f"http://127.0.0.1:{listener.getsockname()[1]}", "lhr-1", "joined")
        copies = SiteCopies(tmp_path / "blobs", link.stream)
        assert await got(copies, digest) == big
        with pytest.raises(Unreachable, match="404"):
            await copies.open(Digest(content_digest(b"absent")))
        await link.aclose()
