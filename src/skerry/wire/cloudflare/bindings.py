"""Bindings in Cloudflare's words: which are taken, which are not there yet, and how they are shown."""

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from skerry.core.types.app import (
    AssetsBinding,
    Binding,
    BlobBinding,
    JsonBinding,
    SecretBinding,
    TextBinding,
    VersionMetadataBinding,
)
from skerry.services.intents.upload import BindingKind, BindingWanted, InheritBinding, PartBinding
from skerry.wire.cloudflare.errors import INVALID_CONTENT, ApiError
from skerry.wire.cloudflare.multipart import Part

PART_TYPES: dict[str, Literal["text", "data", "wasm"]] = {"text_blob": "text", "data_blob": "data", "wasm_module": "wasm"}

TYPE_NAMES: dict[type, str] = {
    TextBinding: "plain_text",
    SecretBinding: "secret_text",
    JsonBinding: "json",
    AssetsBinding: "assets",
    VersionMetadataBinding: "version_metadata",
}

KINDS: dict[str, BindingKind] = {
    "plain_text": "text",
    "secret_text": "secret",
    "json": "json",
    "assets": "assets",
    "version_metadata": "version_metadata",
    "text_blob": "blob",
    "data_blob": "blob",
    "wasm_module": "blob",
}

UNSUPPORTED: dict[str, str] = {
    "agent_memory": "agent memory",
    "ai": "Workers AI",
    "ai_search": "AI Search",
    "ai_search_namespace": "AI Search",
    "analytics": "analytics",
    "analytics_engine": "Analytics Engine",
    "artifacts": "Artifacts",
    "browser": "Browser Rendering",
    "d1": "a D1 database",
    "dispatch_namespace": "a dispatch namespace (Workers for Platforms)",
    "durable_object_namespace": "Durable Objects",
    "flagship": "Flagship",
    "hyperdrive": "Hyperdrive",
    "images": "Images",
    "k2": "a K2 stream",
    "kv_namespace": "a KV namespace",
    "logfwdr": "a log forwarder",
    "media": "Media Transformations",
    "mtls_certificate": "an mTLS certificate",
    "pipelines": "Pipelines",
    "queue": "a queue",
    "r2_bucket": "an R2 bucket",
    "ratelimit": "rate limiting",
    "secret_key": "a cryptographic key",
    "secrets_store_secret": "Secrets Store",
    "send_email": "sending of e-mail",
    "service": "a service binding to another Worker",
    "stream": "Stream",
    "unsafe_hello_world": "an unsafe binding",
    "vectorize": "Vectorize",
    "vpc_network": "a VPC network",
    "vpc_service": "a VPC service",
    "worker_loader": "a worker loader",
    "workflow": "a Workflow",
}


class BindingIn(msgspec.Struct, frozen=True):
    """One entry of `bindings`; fields of other types of bindings are not looked at."""

    type: str
    name: str
    text: str | None = None
    json: msgspec.Raw = msgspec.Raw()
    part: str | None = None
    old_name: str | None = None

    @property
    def is_bare(self) -> bool:
        """Type and name alone: clients mean "as it was" in a patch."""
        return self.text is None and not bytes(self.json) and self.part is None


def refuse_unsupported(bindings: Iterable[BindingIn]) -> None:
    """One message for all that is not there, naming each; raises `ApiError`."""
    reasons = [
        f"binding {binding.name[:60]!r} is {UNSUPPORTED[binding.type]} ({binding.type})"
        if binding.type in UNSUPPORTED
        else f"binding {binding.name[:60]!r} has the unknown type {binding.type[:60]!r}"
        for binding in bindings
        if binding.type not in KINDS and binding.type != "inherit"
    ]
    if reasons:
        more = f" and {len(reasons) - 10} more" if len(reasons) > 10 else ""
        raise _invalid(f"Skerry does not support this yet: {'; '.join(reasons[:10])}{more}. Nothing was deployed.")


def wanted(binding: BindingIn, parts: Mapping[str, Part]) -> BindingWanted:
    """Raises `ApiError`: a value that is missing, or of the wrong type."""
    match binding.type:
        case "inherit":
            return InheritBinding(name=binding.name, old_name=binding.old_name or binding.name)
        case "plain_text" | "secret_text":
            if binding.text is None:
                raise _invalid(f"binding {binding.name[:60]!r} of type {binding.type} must have a `text`")
            make = TextBinding if binding.type == "plain_text" else SecretBinding
            return make(name=binding.name, text=binding.text)
        case "json":
            return JsonBinding(name=binding.name, json=_json_text(binding))
        case "assets":
            return AssetsBinding(name=binding.name)
        case "version_metadata":
            return VersionMetadataBinding(name=binding.name)
        case _:
            part = parts.get(binding.part or binding.name)
            if part is None:
                raise _invalid(f"binding {binding.name[:60]!r} of type {binding.type} names a part that is not in the upload")
            return PartBinding(name=binding.name, type=PART_TYPES[binding.type], content=part.content)


def part_names(bindings: Iterable[BindingIn]) -> frozenset[str]:
    """Parts that are the content of bindings, not modules."""
    return frozenset(binding.part or binding.name for binding in bindings if binding.type in PART_TYPES)


def shown(binding: Binding) -> dict[str, object]:
    """Without the value of a secret."""
    match binding:
        case TextBinding():
            return {"name": binding.name, "type": "plain_text", "text": binding.text}
        case JsonBinding():
            return {"name": binding.name, "type": "json", "json": msgspec.Raw(binding.json.encode())}
        case BlobBinding():
            kind = {"text": "text_blob", "data": "data_blob", "wasm": "wasm_module"}[binding.type]
            return {"name": binding.name, "type": kind, "part": binding.name}
        case _:
            return {"name": binding.name, "type": TYPE_NAMES[type(binding)]}


def _json_text(binding: BindingIn) -> str:
    raw = bytes(binding.json)
    if not raw:
        raise _invalid(f"binding {binding.name[:60]!r} of type json must have a `json`")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise _invalid(f"the value of binding {binding.name[:60]!r} is not UTF-8") from None


def _invalid(message: str) -> ApiError:
    return ApiError(400, INVALID_CONTENT, message)
