"""The upload of static assets: a manifest opens a session, its buckets bring the files."""

import base64
import binascii

import msgspec
from starlette.responses import Response

from skerry.services.intents.assets import AssetUpload, ManifestFile
from skerry.services.intents.draft import check_app_name
from skerry.wire.cloudflare.body import ASSET_UPLOAD_BYTES_MAX, MANIFEST_BYTES_MAX, json_body
from skerry.wire.cloudflare.call import Call, bearer
from skerry.wire.cloudflare.envelope import ok
from skerry.wire.cloudflare.errors import INVALID_CONTENT, ApiError
from skerry.wire.cloudflare.multipart import Part, read_parts


class ManifestEntryIn(msgspec.Struct, frozen=True):
    hash: str
    size: int


class ManifestIn(msgspec.Struct, frozen=True):
    manifest: dict[str, ManifestEntryIn]


async def post_session(call: Call) -> Response:
    name = check_app_name(call.name)
    wanted = await json_body(call.request, ManifestIn, bytes_max=MANIFEST_BYTES_MAX)
    manifest = tuple(ManifestFile(path=path, hash=entry.hash, size=entry.size) for path, entry in wanted.manifest.items())
    session = await call.assets.open(call.account.id, name, manifest)
    return ok({"jwt": session.token, "buckets": session.buckets})


async def post_files(call: Call) -> Response:
    """201 with the token for the deploy once all files are there, 202 before."""
    in_base64 = call.request.query_params.get("base64") == "true"
    parts = await read_parts(call.request, bytes_max=ASSET_UPLOAD_BYTES_MAX)
    files = tuple(
        AssetUpload(hash=part.name, content=_content(part, in_base64=in_base64), content_type=part.full_content_type or None)
        for part in parts
    )
    token = await call.assets.receive(call.account.id, bearer(call.request), files)
    return ok({"jwt": token}, status=202 if token is None else 201)


def _content(part: Part, *, in_base64: bool) -> bytes:
    if not in_base64:
        return part.content
    try:
        return base64.b64decode(part.content, validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(400, INVALID_CONTENT, f"The file {part.name[:40]!r} is not base64.") from None
