"""Pure: an upload and the version before it give a draft of the next version."""

import re
from datetime import UTC, date, datetime

import msgspec

from skerry.core.types.app import (
    Assets,
    AssetsBinding,
    Binding,
    BlobBinding,
    JsonBinding,
    SecretBinding,
    TextBinding,
    Version,
    VersionMetadataBinding,
    Worker,
)
from skerry.core.types.ids import AppName, Digest
from skerry.kit import record
from skerry.kit.hashing import content_digest
from skerry.kit.record import Record
from skerry.ports.store import VALUE_BYTES_MAX
from skerry.services.accounts import DNS_LABEL
from skerry.services.intents import limits
from skerry.services.intents.errors import IntentError, Refusal
from skerry.services.intents.upload import BindingKind, InheritBinding, SecretsPatch, Upload

COMPATIBILITY_DATE_DEFAULT = "2021-11-02"  # Cloudflare's for uploads without one
BINDING_NAME = re.compile(r"[A-Za-z0-9_$][A-Za-z0-9_$.-]*\Z")
FORBIDDEN_BINDING_NAMES = frozenset(("__proto__", "constructor", "prototype"))
FLAG = re.compile(r"[a-z][a-z0-9_]*\Z")
DAY_MS = 86_400_000
KIND_OF: dict[type[Record], BindingKind] = {
    TextBinding: "text",
    SecretBinding: "secret",
    JsonBinding: "json",
    BlobBinding: "blob",
    AssetsBinding: "assets",
    VersionMetadataBinding: "version_metadata",
}


class Stored(Record):
    """What of an upload is in blobs by now. `blobs` has a binding for each `PartBinding` of the upload, by name."""

    worker: Worker | None
    blobs: tuple[BlobBinding, ...] = ()
    assets: Assets | None = None
    etag: str = ""


def invalid(message: str) -> IntentError:
    return IntentError(Refusal.INVALID, message)


def check_upload(upload: Upload, *, now_ms: int) -> None:
    """All that can be said without the previous version; raises `IntentError`."""
    check_compatibility(upload.compatibility_date, upload.compatibility_flags, now_ms=now_ms)
    check_modules(upload)
    check_texts(upload.message, upload.tag)
    if len(upload.recorded.encode()) > limits.RECORDED_BYTES_MAX:
        raise invalid("the settings that are only recorded (placement, limits, …) are too large")
    if upload.tags is not None:
        check_tags(upload.tags)
    for binding in upload.bindings:
        check_binding_name(binding.name)


def check_compatibility(day: str | None, flags: tuple[str, ...], *, now_ms: int) -> None:
    if day is not None:
        today = datetime.fromtimestamp((now_ms + DAY_MS) / 1000, UTC).date()  # it is tomorrow already somewhere
        if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", day, re.ASCII):
            raise invalid(f"The compatibility date {day[:40]!r} is not of the form YYYY-MM-DD.")
        try:
            parsed = date.fromisoformat(day)
        except ValueError:
            raise invalid(f"The compatibility date {day!r} is no day of the calendar.") from None
        if parsed > today:
            raise invalid(f"Can't set compatibility date in the future: {day!r}.")
    if len(flags) > limits.COMPATIBILITY_FLAGS_MAX:
        raise invalid(f"At most {limits.COMPATIBILITY_FLAGS_MAX} compatibility flags are allowed, not {len(flags)}.")
    for flag in flags:
        if len(flag) > limits.COMPATIBILITY_FLAG_CHARS_MAX or not FLAG.match(flag):
            raise invalid(f"No such compatibility flag: {flag[:100]!r}.")
    if len(set(flags)) != len(flags):
        raise invalid("A compatibility flag is named twice.")


def check_modules(upload: Upload) -> None:
    names = [module.name for module in upload.modules]
    if len(names) > limits.MODULES_MAX:
        raise invalid(f"A Worker has at most {limits.MODULES_MAX} modules, not {len(names)}.")
    for name in names:
        if not name or len(name.encode()) > limits.MODULE_NAME_BYTES_MAX or not name.isprintable():
            raise invalid(f"The module name {name[:60]!r} is empty, too long, or has characters that cannot be printed.")
        if name.startswith("/") or "\\" in name or ".." in name.split("/"):
            raise invalid(f"The module name {name[:60]!r} leads out of the Worker's own files.")
    if len(set(names)) != len(names):
        raise invalid(f"The module {next(n for n in names if names.count(n) > 1)!r} is there twice.")
    if upload.main_module is None:
        if names:
            raise invalid("There are modules, but none is named as the main one (main_module or body_part).")
        if upload.assets is None:
            raise invalid("The upload has neither a main module nor assets.")
    elif upload.main_module not in names:
        raise invalid(f"The main module {upload.main_module[:100]!r} is not among the uploaded parts.")


def check_app_name(name: str) -> AppName:
    if not DNS_LABEL.match(name):
        raise IntentError(
            Refusal.NAME_INVALID,
            "An app's name is 1 to 63 lower-case letters, digits and hyphens, with a hyphen at neither end: "
            "it is a part of its host name.",
        )
    return AppName(name)


def check_texts(message: str, tag: str) -> None:
    if len(message) > limits.MESSAGE_CHARS_MAX or len(tag) > limits.TAG_CHARS_MAX:
        raise invalid(
            f"A version's message has at most {limits.MESSAGE_CHARS_MAX} characters and its tag {limits.TAG_CHARS_MAX}."
        )


def check_tags(tags: tuple[str, ...]) -> None:
    if len(tags) > limits.TAGS_MAX or any(len(tag) > limits.TAG_CHARS_MAX for tag in tags):
        raise invalid(f"An app has at most {limits.TAGS_MAX} tags of {limits.TAG_CHARS_MAX} characters.")


def check_binding_name(name: str) -> None:
    if len(name) > limits.BINDING_NAME_CHARS_MAX or not BINDING_NAME.match(name) or name in FORBIDDEN_BINDING_NAMES:
        raise invalid(f"{name[:60]!r} is not a usable binding name: letters, digits and any of _ $ - . are.")


def check_bindings(bindings: tuple[Binding, ...]) -> None:
    """Of a whole version: names, number, sizes."""
    if len(bindings) > limits.BINDINGS_MAX:
        raise IntentError(
            Refusal.TOO_MANY, f"A Worker has at most {limits.BINDINGS_MAX} variables, secrets and bindings, not {len(bindings)}."
        )
    seen: set[str] = set()
    for binding in bindings:
        check_binding_name(binding.name)
        if binding.name in seen:
            raise IntentError(
                Refusal.BINDING_NAME_TAKEN,
                f"Binding name '{binding.name}' already in use. Please use a different name and try again.",
            )
        seen.add(binding.name)
        text = binding.json if isinstance(binding, JsonBinding) else getattr(binding, "text", "")
        if len(text.encode()) > limits.VARIABLE_BYTES_MAX:
            raise invalid(
                f"The value of {binding.name} has {len(text.encode()):,} bytes; the limit is {limits.VARIABLE_BYTES_MAX:,}."
            )


def merge_bindings(upload: Upload, stored: Stored, previous: Version | None) -> tuple[Binding, ...]:
    """The upload's own bindings, those it inherits, and the kinds it keeps; in name order. Raises `IntentError`."""
    before = {binding.name: binding for binding in (previous.bindings if previous else ())}
    blobs = {binding.name: binding for binding in stored.blobs}
    merged: list[Binding] = []
    for wanted in upload.bindings:
        if isinstance(wanted, InheritBinding):
            old = before.get(wanted.old_name)
            if old is None:
                raise IntentError(
                    Refusal.INHERIT_MISSING,
                    f"binding {wanted.name} inherits {wanted.old_name!r} from the previous version, which has no such binding",
                )
            merged.append(msgspec.structs.replace(old, name=wanted.name))
        elif isinstance(wanted, TextBinding | SecretBinding | JsonBinding | AssetsBinding | VersionMetadataBinding):
            merged.append(wanted)
        else:
            merged.append(blobs[wanted.name])
    named = {binding.name for binding in merged}
    merged.extend(b for b in before.values() if KIND_OF[type(b)] in upload.keep and b.name not in named)
    bindings = tuple(sorted(merged, key=lambda binding: binding.name))
    check_bindings(bindings)
    if stored.assets is None and any(isinstance(b, AssetsBinding) for b in bindings):
        raise invalid("There is a binding of type assets, but the version has no assets.")
    return bindings


def patch_secrets(bindings: tuple[Binding, ...], patch: SecretsPatch) -> tuple[Binding, ...]:
    """Raises `IntentError`: a name that another kind of binding has, or a secret that is not there."""
    kept = {binding.name: binding for binding in bindings}
    for name in patch.remove:
        if isinstance(kept.get(name), SecretBinding):
            del kept[name]
        elif patch.require_all:
            raise IntentError(Refusal.SECRET_NOT_FOUND, f"There is no secret {name[:100]!r} on this Worker.")
    for secret in patch.put:
        if not isinstance(kept.get(secret.name), SecretBinding | None):
            raise IntentError(
                Refusal.BINDING_NAME_TAKEN,
                f"Binding name '{secret.name}' already in use. Please use a different name and try again.",
            )
        kept[secret.name] = secret
    patched = tuple(kept[name] for name in sorted(kept))
    check_bindings(patched)
    return patched


def sealed(version: Version) -> Version:
    """With its digest; raises `IntentError` if the record is more than the store takes."""
    version = msgspec.structs.replace(version, digest=behaviour_digest(version))
    size = len(record.encode(version))
    if size > VALUE_BYTES_MAX:
        raise IntentError(
            Refusal.TOO_LARGE,
            f"The description of this version (names of modules, variables, _headers, _redirects) has {size:,} bytes; "
            f"the limit is {VALUE_BYTES_MAX:,}. Shorten the variables or the rules.",
        )
    return version


def behaviour_digest(version: Version) -> Digest:
    """Equal digests, equal behaviour: also what the code can read about its own version is in it, if it asks for it."""
    parts: list[object] = [
        version.compatibility_date,
        version.compatibility_flags,
        version.worker,
        version.assets,
        version.bindings,
        version.limits,
    ]
    if version.program is not None or version.isolation != "sandbox":
        parts.append([version.program, version.isolation])
    if any(isinstance(binding, VersionMetadataBinding) for binding in version.bindings):
        parts.append([version.id, version.tag, version.created_ms])
    return Digest(content_digest(record.encode(parts)))
