"""What a dialect hands over, in our words: already typed and counted, not yet judged."""

import hashlib
import zlib
from typing import Any, Literal

from skerry.core.types.app import AssetsBinding, JsonBinding, ModuleType, SecretBinding, TextBinding, VersionMetadataBinding
from skerry.kit.record import Record
from skerry.services.intents import limits
from skerry.services.intents.errors import IntentError, Refusal

GZIP_CHUNK = 1 << 20

BindingKind = Literal["text", "secret", "json", "blob", "assets", "version_metadata"]


class ModulePart(Record):
    name: str
    type: ModuleType
    content: bytes


class PartBinding(Record):
    """`env.NAME` is made from `content`."""

    name: str
    type: Literal["text", "data", "wasm"]
    content: bytes


class InheritBinding(Record):
    """`env.NAME` stays what `old_name` was in the previous version."""

    name: str
    old_name: str


BindingWanted = TextBinding | SecretBinding | JsonBinding | PartBinding | AssetsBinding | VersionMetadataBinding | InheritBinding


class AssetsWanted(Record):
    """`token` names a finished upload session; None keeps the files of the previous version."""

    token: str | None
    html_handling: str = "auto-trailing-slash"
    not_found_handling: str = "none"
    run_worker_first: bool | tuple[str, ...] = False
    headers: str = ""
    redirects: str = ""


class Upload(Record):
    """A new version as its author describes it. `keep` names the kinds of bindings that stay if not named again."""

    main_module: str | None = None
    modules: tuple[ModulePart, ...] = ()
    service_worker_syntax: bool = False
    bindings: tuple[BindingWanted, ...] = ()
    keep: frozenset[BindingKind] = frozenset()
    compatibility_date: str | None = None
    compatibility_flags: tuple[str, ...] = ()
    assets: AssetsWanted | None = None
    observability: bool | None = None
    tags: tuple[str, ...] | None = None
    scale: dict[str, Any] | None = None  # changes of the app's, by field; None: none
    isolation: Literal["sandbox", "gvisor"] = "sandbox"
    recorded: str = ""
    message: str = ""
    tag: str = ""


class SecretsPatch(Record):
    """Secrets to set and to remove; `require_all` refuses to remove what is not there."""

    put: tuple[SecretBinding, ...] = ()
    remove: tuple[str, ...] = ()
    require_all: bool = False


def content_bytes(upload: Upload) -> int:
    """Of all modules and parts together."""
    modules = sum(len(module.content) for module in upload.modules)
    return modules + sum(len(binding.content) for binding in upload.bindings if isinstance(binding, PartBinding))


def check_size(upload: Upload) -> None:
    """Raises `IntentError`. Compresses what might be too large: some hundred ms; run it on a thread."""
    total = content_bytes(upload)
    if total > limits.SCRIPT_BYTES_MAX:
        raise IntentError(
            Refusal.SCRIPT_TOO_LARGE,
            f"Your Worker has {total:,} bytes before compression; the limit is {limits.SCRIPT_BYTES_MAX // limits.MIB} MiB.",
        )
    if total <= limits.SCRIPT_GZIP_BYTES_MAX:
        return
    compressed = _gzip_bytes(upload)
    if compressed > limits.SCRIPT_GZIP_BYTES_MAX:
        raise IntentError(
            Refusal.SCRIPT_TOO_LARGE,
            f"Your Worker exceeded the size limit of {limits.SCRIPT_GZIP_BYTES_MAX // limits.MIB} MiB: "
            f"it has {compressed / limits.MIB:.1f} MiB after compression.",
        )


def _gzip_bytes(upload: Upload) -> int:
    """What gzip makes of all modules one after the other, as Cloudflare counts it."""
    compressor = zlib.compressobj(6, zlib.DEFLATED, 31)
    total = 0
    for module in upload.modules:
        for start in range(0, len(module.content), GZIP_CHUNK):
            total += len(compressor.compress(memoryview(module.content)[start : start + GZIP_CHUNK]))
    return total + len(compressor.flush())


def code_etag(upload: Upload) -> str:
    """Of the code alone: no secret goes into what every reader may see."""
    hasher = hashlib.sha256()
    for module in upload.modules:
        for part in (module.name.encode(), module.type.encode(), module.content):
            hasher.update(len(part).to_bytes(8, "big"))
            hasher.update(part)
    return hasher.hexdigest()
