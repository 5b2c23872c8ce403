"""Rules of the fake that need no state."""

from typing import Any, cast

from skerry.testing.firecracker import schema
from skerry.testing.firecracker.schema import Refused


def is_deprecated(method: str, parts: list[str], body: bytes | None) -> bool:
    """Whether the answer says so, whatever its status is."""
    try:
        found = schema.plain(schema.parse(body or b"{}"))
    except Refused:
        return False
    if method not in ("PUT", "PATCH") or not isinstance(found, dict) or not parts:
        return False
    given = cast("dict[str, Any]", found)
    if parts[:2] == ["mmds", "config"]:
        return _valid_metadata_config(body or b"{}") and given.get("version", "V1") == "V1"
    if parts[:2] == ["snapshot", "load"]:
        one = ("mem_file_path" in given) != ("mem_backend" in given)
        return one and ("mem_file_path" in given or "enable_diff_snapshots" in given)
    if parts[0] == "machine-config":
        return given.get("cpu_template") == "None"
    return parts[0] == "vsock" and "vsock_id" in given


def _valid_metadata_config(body: bytes) -> bool:
    try:
        schema.MMDS(schema.parse(body))
    except Refused:
        return False
    return True


def loader(kind: str, reason: str) -> str:
    return f"Kernel Loader: failed to load {kind} kernel image: Kernel Loader: {reason}"


def merged(below: Any, above: Any) -> Any:
    """RFC 7396."""
    if not isinstance(above, dict):
        return above
    result = dict(cast("dict[str, Any]", below)) if isinstance(below, dict) else {}
    for name, value in cast("dict[str, Any]", above).items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result
