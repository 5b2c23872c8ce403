"""Versions, deployments and secrets."""

import msgspec
from starlette.responses import Response

from skerry.core.types.app import SecretBinding, Share
from skerry.core.types.ids import VersionId
from skerry.services.intents.errors import IntentError, Refusal
from skerry.services.intents.upload import SecretsPatch
from skerry.wire.cloudflare import present
from skerry.wire.cloudflare.body import SCRIPT_UPLOAD_BYTES_MAX, json_body
from skerry.wire.cloudflare.call import Call
from skerry.wire.cloudflare.envelope import listed, ok, page_of
from skerry.wire.cloudflare.errors import INVALID_CONTENT, MALFORMED_BODY, ApiError
from skerry.wire.cloudflare.metadata import annotation, read_upload
from skerry.wire.cloudflare.multipart import read_parts

VERSIONS_PER_PAGE = 10  # Cloudflare's: the newest ten


class ShareIn(msgspec.Struct, frozen=True):
    version_id: str
    percentage: float


class DeploymentIn(msgspec.Struct, frozen=True):
    versions: list[ShareIn]
    strategy: str = "percentage"
    annotations: dict[str, str | None] | None = None


class SecretIn(msgspec.Struct, frozen=True):
    name: str
    text: str | None = None
    type: str = "secret_text"


class SecretsBulkIn(msgspec.Struct, frozen=True):
    """A merge patch: null removes."""

    secrets: dict[str, SecretIn | None]


class EnvIn(msgspec.Struct, frozen=True):
    type: str = "secret_text"
    text: str | None = None


class VersionPatchIn(msgspec.Struct, frozen=True):
    """A merge patch of the newest version: null removes."""

    env: dict[str, EnvIn | None] = {}
    annotations: dict[str, str | None] | None = None


async def post_version(call: Call) -> Response:
    upload = read_upload(await read_parts(call.request, bytes_max=SCRIPT_UPLOAD_BYTES_MAX))
    made = await call.apps.upload_version(call.account.id, call.name, upload, source=call.source, author=call.author)
    return ok(present.version(made))


async def list_versions(call: Call) -> Response:
    state = await call.apps.state(call.account.id, call.name)
    versions = [present.version(version) for version in state.versions]
    chosen, info = page_of(call.request, versions, per_page=VERSIONS_PER_PAGE)
    return ok({"items": chosen}, result_info=info)


async def get_version(call: Call) -> Response:
    state = await call.apps.state(call.account.id, call.name)
    return ok(present.version(state.version(call.request.path_params["version"])))


async def patch_latest_version(call: Call) -> Response:
    """`wrangler versions secret …`: a new version with other secrets, not deployed."""
    wanted = await json_body(call.request, VersionPatchIn)
    patch = _patch({name: (None if env is None else (env.type, env.text)) for name, env in wanted.env.items()})
    made = await call.apps.change_secrets(
        call.account.id,
        call.name,
        patch,
        deploy=False,
        source=present.SECRET_SOURCE,
        author=call.author,
        message=annotation(wanted.annotations, "workers/message"),
        tag=annotation(wanted.annotations, "workers/tag"),
    )
    return ok(present.version(made))


async def list_deployments(call: Call) -> Response:
    state = await call.apps.state(call.account.id, call.name)
    return ok({"deployments": [present.deployment(deployment) for deployment in state.deployments]})


async def get_deployment(call: Call) -> Response:
    state = await call.apps.state(call.account.id, call.name)
    for deployment in state.deployments:
        if deployment.id == call.request.path_params["deployment"]:
            return ok(present.deployment(deployment))
    raise IntentError(Refusal.DEPLOYMENT_NOT_FOUND, "This deployment does not exist.")


async def post_deployment(call: Call) -> Response:
    wanted = await json_body(call.request, DeploymentIn)
    if wanted.strategy != "percentage":
        raise ApiError(400, INVALID_CONTENT, "The strategy of a deployment is percentage.")
    shares = tuple(
        Share(version=VersionId(share.version_id), percent=share.percentage) for share in wanted.versions if share.percentage != 0
    )
    made = await call.apps.create_deployment(
        call.account.id,
        call.name,
        shares,
        source=call.source,
        author=call.author,
        message=annotation(wanted.annotations, "workers/message"),
    )
    return ok(present.deployment(made))


async def list_secrets(call: Call) -> Response:
    state = await call.apps.state(call.account.id, call.name)
    return listed(call.request, present.secrets(state.deployed or state.latest))


async def get_secret(call: Call) -> Response:
    name = call.request.path_params["secret"]
    state = await call.apps.state(call.account.id, call.name)
    for secret in present.secrets(state.deployed or state.latest):
        if secret["name"] == name:
            return ok(secret)
    raise IntentError(Refusal.SECRET_NOT_FOUND, f"There is no secret {name[:100]!r} on this Worker.")


async def put_secret(call: Call) -> Response:
    secret = await json_body(call.request, SecretIn)
    await _change(call, _patch({secret.name: (secret.type, secret.text)}))
    return ok({"name": secret.name, "type": "secret_text"})


async def delete_secret(call: Call) -> Response:
    await _change(call, SecretsPatch(remove=(call.request.path_params["secret"],), require_all=True))
    return ok(None)


async def patch_secrets(call: Call) -> Response:
    wanted = await json_body(call.request, SecretsBulkIn)
    await _change(
        call, _patch({name: (None if secret is None else (secret.type, secret.text)) for name, secret in wanted.secrets.items()})
    )
    return await list_secrets(call)


async def _change(call: Call, patch: SecretsPatch) -> None:
    """In a new version that replaces the one that runs."""
    await call.apps.change_secrets(
        call.account.id, call.name, patch, deploy=True, source=present.SECRET_SOURCE, author=call.author
    )


def _patch(wanted: dict[str, tuple[str, str | None] | None]) -> SecretsPatch:
    """Raises `ApiError`: only secrets with a text can be set. Its messages never hold a value."""
    put: list[SecretBinding] = []
    for name, value in wanted.items():
        if value is None:
            continue
        kind, text = value
        if kind != "secret_text" or text is None:
            raise ApiError(400, MALFORMED_BODY, f"The secret {name[:60]!r} has to be of type secret_text and to have a text.")
        put.append(SecretBinding(name=name, text=text))
    return SecretsPatch(put=tuple(put), remove=tuple(name for name, value in wanted.items() if value is None))
