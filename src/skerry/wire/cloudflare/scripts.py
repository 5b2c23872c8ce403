"""Scripts, services and workers: three of Cloudflare's names for an app."""

import secrets
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.responses import Response

from skerry.core.types.app import Binding, JsonBinding, SecretBinding, TextBinding, Version, Worker
from skerry.services.intents import draft
from skerry.services.intents.errors import IntentError, Refusal
from skerry.wire.cloudflare import bindings as binding_words
from skerry.wire.cloudflare import present
from skerry.wire.cloudflare.body import SCRIPT_UPLOAD_BYTES_MAX, decode, json_body
from skerry.wire.cloudflare.call import Call
from skerry.wire.cloudflare.envelope import listed, ok
from skerry.wire.cloudflare.errors import INVALID_CONTENT, SERVICE_NOT_FOUND, ApiError
from skerry.wire.cloudflare.metadata import MODULE_TYPES, REFUSED_FIELDS, Observability, read_upload
from skerry.wire.cloudflare.multipart import read_parts

SETTINGS_BYTES_MAX = 4 << 20
MIME_TYPES = {kind: mime for mime, kind in reversed(MODULE_TYPES.items())}


class SubdomainIn(msgspec.Struct, frozen=True):
    enabled: bool | None = None
    previews_enabled: bool | None = None


class SettingsIn(msgspec.Struct, frozen=True):
    """Of a version: a list of bindings replaces those that are there."""

    bindings: list[binding_words.BindingIn] | None = None


class ScriptSettingsIn(msgspec.Struct, frozen=True):
    """Of the app; null is absent."""

    observability: Observability | None = None
    tags: list[str] | None = None
    logpush: bool | None = None
    tail_consumers: list[Any] | None = None
    streaming_tail_consumers: list[Any] | None = None


async def put_script(call: Call) -> Response:
    upload = read_upload(await read_parts(call.request, bytes_max=SCRIPT_UPLOAD_BYTES_MAX))
    made = await call.apps.deploy(call.account.id, call.name, upload, source=call.source, author=call.author)
    app = await call.apps.app(call.account.id, call.name)
    return ok(present.uploaded(app, made))


async def list_scripts(call: Call) -> Response:
    apps = await call.apps.list_apps(call.account.id)
    return listed(call.request, [present.script(app, None) for app in apps])


async def get_content(call: Call) -> Response:
    """The code that runs (or that of `?version=`), as the parts of a form."""
    state = await call.apps.state(call.account.id, call.name)
    wanted = call.request.query_params.get("version")
    version = state.version(wanted) if wanted else state.deployed or state.latest
    if version is None or version.worker is None:
        return Response(b"", headers={"cf-entrypoint": ""})
    return await _form(call, version.worker, version)


async def delete_script(call: Call) -> Response:
    await call.apps.delete(call.account.id, call.name)
    return ok(None)


async def get_settings(call: Call) -> Response:
    state = await call.apps.state(call.account.id, call.name)
    return ok(present.settings(state.app, state.deployed or state.latest))


async def patch_settings(call: Call) -> Response:
    """Bindings of type and name alone stay as they are; the others replace; what is not named goes."""
    parts = await read_parts(call.request, bytes_max=SETTINGS_BYTES_MAX)
    part = next((part for part in parts if part.name == "settings"), None)
    if part is None:
        raise ApiError(400, INVALID_CONTENT, "The request has no part named settings.")
    raw = part.content
    _refuse_fields(decode(raw, dict[str, Any], code=INVALID_CONTENT, what="settings"))
    settings = decode(raw, SettingsIn, code=INVALID_CONTENT, what="settings")
    if settings.bindings is not None:
        named = settings.bindings
        binding_words.refuse_unsupported(named)
        await call.apps.change_bindings(
            call.account.id,
            call.name,
            lambda before: replaced(before, named),
            deploy=True,
            source=present.SECRET_SOURCE,
            author=call.author,
        )
    return await get_settings(call)


async def get_script_settings(call: Call) -> Response:
    return ok(present.script_settings(await call.apps.app(call.account.id, call.name)))


async def patch_script_settings(call: Call) -> Response:
    settings = await json_body(call.request, ScriptSettingsIn)
    if settings.tail_consumers or settings.streaming_tail_consumers:
        raise ApiError(400, INVALID_CONTENT, "Skerry does not support tail consumers yet.")
    if settings.logpush:
        raise ApiError(400, INVALID_CONTENT, "Skerry does not support Logpush yet.")
    app = await call.apps.change_app(
        call.account.id,
        call.name,
        observability=None if settings.observability is None else bool(settings.observability.enabled),
        tags=None if settings.tags is None else tuple(settings.tags),
    )
    return ok(present.script_settings(app))


async def get_subdomain(call: Call) -> Response:
    app = await call.apps.app(call.account.id, call.name)
    return ok({"enabled": app.enabled, "previews_enabled": False})


async def post_subdomain(call: Call) -> Response:
    wanted = await json_body(call.request, SubdomainIn)
    app = await call.apps.change_app(call.account.id, call.name, enabled=wanted.enabled)
    return ok({"enabled": app.enabled, "previews_enabled": False})


async def get_schedules(call: Call) -> Response:
    await call.apps.app(call.account.id, call.name)
    return ok({"schedules": []})


async def put_schedules(call: Call) -> Response:
    schedules = await json_body(call.request, list[Any])
    await call.apps.app(call.account.id, call.name)
    if schedules:
        raise ApiError(400, INVALID_CONTENT, "Skerry has no cron schedules yet: the Worker is deployed without them.")
    return ok({"schedules": []})


async def get_service(call: Call) -> Response:
    try:
        return ok(present.service(await call.apps.state(call.account.id, call.name)))
    except IntentError as error:
        if error.refusal is not Refusal.APP_NOT_FOUND:
            raise
        raise ApiError(404, SERVICE_NOT_FOUND, error.message) from None


async def list_workers(call: Call) -> Response:
    apps = await call.apps.list_apps(call.account.id)
    return listed(call.request, [present.worker(app, call.account, call.addresses) for app in apps])


async def get_worker(call: Call) -> Response:
    app = await call.apps.app(call.account.id, call.name)
    return ok(present.worker(app, call.account, call.addresses))


async def get_references(call: Call) -> Response:
    await call.apps.app(call.account.id, call.name)
    return ok(present.references())


async def get_nothing(call: Call) -> Response:
    """A list of what this app cannot have yet."""
    return ok([])


async def get_empty_page(call: Call) -> Response:
    """Of a product that is not there: clients look before they delete."""
    return listed(call.request, [])


async def get_bindings(call: Call) -> Response:
    state = await call.apps.state(call.account.id, call.name)
    current = state.deployed or state.latest
    return ok([binding_words.shown(binding) for binding in current.bindings] if current else [])


async def get_environment(call: Call) -> Response:
    service = present.service(await call.apps.state(call.account.id, call.name))
    return ok(service["default_environment"])


async def put_routes(call: Call) -> Response:
    if await json_body(call.request, list[Any]):
        raise ApiError(400, INVALID_CONTENT, "Skerry has no routes yet: the Worker answers at its own host name alone.")
    return ok([])


def replaced(before: tuple[Binding, ...], named: Sequence[binding_words.BindingIn]) -> tuple[Binding, ...]:
    """Raises `IntentError` or `ApiError`."""
    held = {binding.name: binding for binding in before}
    made: list[Binding] = []
    for binding in named:
        if binding.type == "inherit" or binding.is_bare:
            old = held.get(binding.old_name or binding.name)
            if old is None:
                raise IntentError(Refusal.INHERIT_MISSING, f"binding {binding.name} is to stay as it was, but was not there")
            made.append(msgspec.structs.replace(old, name=binding.name))
            continue
        wanted = binding_words.wanted(binding, {})
        if not isinstance(wanted, TextBinding | SecretBinding | JsonBinding):
            raise ApiError(400, INVALID_CONTENT, f"binding {binding.name[:60]!r} cannot be set by a patch of settings")
        made.append(wanted)
    bindings = tuple(sorted(made, key=lambda binding: binding.name))
    draft.check_bindings(bindings)
    return bindings


def _refuse_fields(settings: dict[str, Any]) -> None:
    for name, words in REFUSED_FIELDS.items():
        if settings.get(name):
            raise ApiError(400, INVALID_CONTENT, f"Skerry does not support {words} ({name}) yet.")
    if settings.get("skerry"):
        raise ApiError(400, INVALID_CONTENT, "The skerry section is changed by a deploy or by `skerry scale`, not here.")


async def _form(call: Call, worker: Worker, version: Version) -> Response:
    boundary = secrets.token_hex(16)
    body = bytearray()
    for module in worker.modules:
        mime = MIME_TYPES.get(module.type, "application/octet-stream")
        name = module.name.replace('"', "%22")
        body += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n'.encode()
        body += f"Content-Type: {mime}\r\n\r\n".encode()
        body += await call.apps.module(module.digest)
        body += b"\r\n"
    body += f"--{boundary}--\r\n".encode()
    headers = {"cf-entrypoint": worker.main_module.encode("ascii", "replace").decode(), "etag": version.etag}
    return Response(bytes(body), headers=headers, media_type=f"multipart/form-data; boundary={boundary}")
