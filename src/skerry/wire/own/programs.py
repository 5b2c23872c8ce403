"""Images and programs in the own API: blobs in, then a program that names them."""

from collections.abc import AsyncIterator

from starlette.requests import ClientDisconnect, Request

from skerry.core.types.app import Version
from skerry.core.types.ids import Digest
from skerry.core.types.view import VersionView
from skerry.kit.record import Record
from skerry.services.accounts import Accounts
from skerry.services.intents.apps import Apps
from skerry.services.intents.programs import ProgramUpload
from skerry.wire.own import border
from skerry.wire.own.errors import Refusal

PROGRAM_BYTES_MAX = 1 << 20  # variables, secrets and files of a version, which is one record
AUTHOR_CHARS_MAX = 200


class DigestsBody(Record):
    digests: tuple[Digest, ...]


class ProgramsApi:
    """Handlers; what they return is written as JSON."""

    def __init__(self, accounts: Accounts, apps: Apps) -> None:
        self._accounts = accounts
        self._apps = apps

    async def missing_blobs(self, request: Request) -> object:
        account = await border.writer(request, self._accounts)
        asked = await border.body(request, DigestsBody)
        missing = await self._apps.programs.images.missing(account, frozenset(asked.digests))
        return {"missing": sorted(missing)}

    async def put_blob(self, request: Request) -> object:
        account = await border.writer(request, self._accounts)
        digest = Digest(request.path_params["digest"])
        size = await self._apps.programs.images.receive(account, digest, _chunks(request))
        return {"digest": digest, "size": size}

    async def put_program(self, request: Request) -> object:
        principal, account = await border.author(request, self._accounts)
        upload = await border.body(request, ProgramUpload, bytes_max=PROGRAM_BYTES_MAX)
        version = await self._apps.programs.deploy(
            account,
            request.path_params["app"],  # judged there: the app may be new
            upload,
            source="skerry",
            author=principal.name[:AUTHOR_CHARS_MAX],
            deploy=request.query_params.get("deploy", "true") != "false",
        )
        return version_view(version)

    async def delete_app(self, request: Request) -> object:
        account = await border.writer(request, self._accounts)
        name = border.app_of(request)
        await self._apps.delete(account, name)
        return {"deleted": name}


def version_view(version: Version) -> VersionView:
    """Without bindings and files: secrets are among them."""
    program = version.program
    return VersionView(
        account=version.account,
        app=version.app,
        version=version.id,
        number=version.number,
        created_ms=version.created_ms,
        isolation=version.isolation,
        image=program.image.name if program else None,
        image_digest=program.image.manifest if program else None,
        port=program.port if program else None,
        protocol=program.protocol if program else None,
    )


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    try:
        async for chunk in request.stream():
            yield chunk
    except ClientDisconnect:
        raise Refusal(400, "invalid", "the blob ended early; send it again") from None
