"""The `metadata` part of an upload, and the parts beside it, as an `Upload`."""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from skerry.core.types.app import ModuleType
from skerry.services.intents import limits
from skerry.services.intents.upload import AssetsWanted, BindingKind, ModulePart, Upload
from skerry.wire.cloudflare import bindings as binding_words
from skerry.wire.cloudflare.bindings import BindingIn
from skerry.wire.cloudflare.body import MIB, decode
from skerry.wire.cloudflare.errors import INVALID_CONTENT, ApiError
from skerry.wire.cloudflare.multipart import Part
from skerry.wire.cloudflare.placement import with_placement

METADATA_BYTES_MAX = 4 * MIB
METADATA_PART = "metadata"
UNNAMED_PARTS = frozenset(("files", "files[]"))  # the SDKs' name for modules that are named by their file name

MODULE_TYPES: dict[str, ModuleType] = {
    "application/javascript+module": "esm",
    "text/javascript+module": "esm",
    "application/javascript": "commonjs",
    "text/javascript": "commonjs",
    "application/wasm": "wasm",
    "text/plain": "text",
    "application/octet-stream": "data",
    "application/json": "json",
    "text/x-python": "python",
    "text/x-python-requirement": "python",
}
SOURCE_MAP = "application/source-map"

# What takes part in how a Worker behaves and is not there: refused, so that nobody misses it later.
REFUSED_FIELDS: dict[str, str] = {
    "migrations": "Durable Object migrations",
    "exports": "Durable Objects and Workflows declared by `exports`",
    "containers": "containers",
    "tail_consumers": "tail consumers",
    "streaming_tail_consumers": "tail consumers",
    "capnp_schema": "Cap'n Proto schemas",
    "dispatch_namespace": "dispatch namespaces",
    "logpush": "Logpush",
}
# What changes speed or cost, not answers: kept with the version and shown again; of these, `placement` alone is acted on.
RECORDED_FIELDS = ("placement", "limits", "usage_model", "cache_options")
KEPT_WITHOUT_A_WORD: frozenset[BindingKind] = frozenset(("secret",))


class AssetConfigIn(msgspec.Struct, frozen=True):
    html_handling: str | None = None
    not_found_handling: str | None = None
    run_worker_first: bool | list[str] | None = None
    base_path: str | None = None
    headers: str | None = msgspec.field(name="_headers", default=None)
    redirects: str | None = msgspec.field(name="_redirects", default=None)


class AssetsIn(msgspec.Struct, frozen=True):
    jwt: str | None = None
    config: AssetConfigIn | None = None


class Observability(msgspec.Struct, frozen=True):
    enabled: bool | None = None


class SkerryIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The platform's own section: what Cloudflare has no word for."""

    scale: dict[str, Any] | None = None  # changes, by field
    isolation: Literal["sandbox", "gvisor"] | None = None  # the wall around it; without a word the platform's own, sandbox


class Metadata(msgspec.Struct, frozen=True):
    """Fields that are not named here are not looked at, as Cloudflare does, except `REFUSED_FIELDS`."""

    main_module: str | None = None
    body_part: str | None = None
    bindings: list[BindingIn] | None = None
    keep_bindings: list[str] | None = None
    compatibility_date: str | None = None
    compatibility_flags: list[str] | None = None
    assets: AssetsIn | None = None
    keep_assets: bool | None = None
    observability: Observability | None = None
    tags: list[str] | None = None
    annotations: dict[str, str | None] | None = None
    migrations: Any = None
    exports: Any = None
    containers: Any = None
    tail_consumers: Any = None
    streaming_tail_consumers: Any = None
    capnp_schema: Any = None
    dispatch_namespace: Any = None
    placement: dict[str, Any] | None = None
    limits: dict[str, Any] | None = None
    usage_model: str | None = None
    cache_options: dict[str, Any] | None = None
    logpush: bool | None = None
    skerry: SkerryIn | None = None  # of wrangler's `unsafe.metadata`


def read_upload(parts: Sequence[Part]) -> Upload:
    """Raises `ApiError`."""
    by_name = {part.name: part for part in parts}
    if METADATA_PART not in by_name:
        raise _invalid("The upload has no part named metadata.")
    raw = by_name[METADATA_PART].content
    if len(raw) > METADATA_BYTES_MAX:
        raise _invalid(f"The metadata has more than {METADATA_BYTES_MAX:,} bytes.")
    metadata = decode(raw, Metadata, code=INVALID_CONTENT, what="metadata")
    named = metadata.bindings or []
    binding_words.refuse_unsupported(named)
    _refuse_fields(metadata)
    main, is_script = _main(metadata)
    modules = _modules(parts, skip=binding_words.part_names(named), is_script=is_script)
    return Upload(
        main_module=main,
        modules=modules,
        service_worker_syntax=is_script,
        bindings=tuple(binding_words.wanted(binding, by_name) for binding in named),
        keep=kept_kinds(metadata.keep_bindings),
        compatibility_date=metadata.compatibility_date or None,
        compatibility_flags=tuple(metadata.compatibility_flags or ()),
        assets=_assets(metadata),
        observability=None if metadata.observability is None else bool(metadata.observability.enabled),
        tags=None if metadata.tags is None else tuple(metadata.tags),
        scale=with_placement(metadata.skerry.scale if metadata.skerry else None, metadata.placement),
        isolation=(metadata.skerry.isolation if metadata.skerry else None) or "sandbox",
        recorded=recorded(metadata),
        message=annotation(metadata.annotations, "workers/message"),
        tag=annotation(metadata.annotations, "workers/tag"),
    )


def annotation(annotations: dict[str, str | None] | None, name: str) -> str:
    return (annotations or {}).get(name) or ""


def kept_kinds(types: list[str] | None) -> frozenset[BindingKind]:
    """Of `keep_bindings`. Without it secrets stay, as wrangler up to 4.86 counts on: its deploys do not name them."""
    if types is None:
        return KEPT_WITHOUT_A_WORD
    return frozenset(binding_words.KINDS[name] for name in types if name in binding_words.KINDS)


def recorded(metadata: Metadata) -> str:
    kept = {name: getattr(metadata, name) for name in RECORDED_FIELDS if getattr(metadata, name) is not None}
    try:
        return msgspec.json.encode(kept, order="deterministic").decode() if kept else ""
    except (RecursionError, ValueError):
        raise _invalid("The metadata is nested too deeply.") from None


def _refuse_fields(metadata: Metadata) -> None:
    for name, words in REFUSED_FIELDS.items():
        if getattr(metadata, name):
            raise _invalid(f"Skerry does not support {words} ({name}) yet. Nothing was deployed.")


def _main(metadata: Metadata) -> tuple[str | None, bool]:
    """The main part's name, and whether it is a script in service-worker syntax."""
    if metadata.main_module and metadata.body_part:
        raise _invalid("The metadata names both a main_module and a body_part.")
    return metadata.main_module or metadata.body_part or None, bool(metadata.body_part)


def _modules(parts: Sequence[Part], *, skip: frozenset[str], is_script: bool) -> tuple[ModulePart, ...]:
    modules: list[ModulePart] = []
    seen_metadata = False
    for part in parts:
        if part.name == METADATA_PART:
            if seen_metadata:
                raise _invalid("The upload has two parts named metadata.")
            seen_metadata = True
        elif part.name not in skip and part.content_type != SOURCE_MAP:
            modules.append(_module(part, is_script=is_script))
    if len(modules) > limits.MODULES_MAX:
        raise _invalid(f"A Worker has at most {limits.MODULES_MAX} modules, not {len(modules)}.")
    return tuple(modules)


def _module(part: Part, *, is_script: bool) -> ModulePart:
    name = part.filename if part.name in UNNAMED_PARTS and part.filename else part.name
    kind = MODULE_TYPES.get(part.content_type)
    if kind is None:
        raise _invalid(
            f"The module {name[:100]!r} has the content type {part.content_type[:60]!r}, which is not one of a module."
        )
    if kind == "python":
        raise _invalid(f"The module {name[:100]!r} is Python, which Skerry does not support yet. Nothing was deployed.")
    if kind == "esm" and is_script:
        raise _invalid("The body_part is an ES module; name it main_module instead.")
    if kind in ("esm", "commonjs", "text", "json"):
        _check_utf8(name, part.content)
    return ModulePart(name=name, type=kind, content=part.content)


def _check_utf8(name: str, content: bytes) -> None:
    try:
        content.decode()
    except UnicodeDecodeError:
        raise _invalid(f"The module {name[:100]!r} is not UTF-8.") from None


def _assets(metadata: Metadata) -> AssetsWanted | None:
    if metadata.assets is None:
        return AssetsWanted(token=None) if metadata.keep_assets else None
    config = metadata.assets.config or AssetConfigIn()
    if metadata.assets.jwt is None and not metadata.keep_assets:
        raise _invalid("The metadata's assets have no jwt of a finished upload.")
    if config.base_path not in (None, "", "/"):
        raise _invalid("Skerry does not support a base_path of assets yet. Nothing was deployed.")
    first = config.run_worker_first
    return AssetsWanted(
        token=metadata.assets.jwt,
        html_handling=config.html_handling or "auto-trailing-slash",
        not_found_handling=config.not_found_handling or "none",
        run_worker_first=tuple(first) if isinstance(first, list) else bool(first),
        headers=config.headers or "",
        redirects=config.redirects or "",
    )


def _invalid(message: str) -> ApiError:
    return ApiError(400, INVALID_CONTENT, message)
