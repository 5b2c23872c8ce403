"""Stable hashes: the same in every process, whatever PYTHONHASHSEED says."""

import hashlib


def stable_hash(*parts: str) -> int:
    """A 64-bit number from the parts; for breaking ties and spreading, not for security."""
    return int.from_bytes(_digest(parts, size=8), "big")


def stable_id(*parts: str, length: int = 16) -> str:
    """`length` hex digits (at most 64) from the parts: an id that any replica derives alike."""
    return _digest(parts, size=32).hex()[:length]


def content_digest(data: bytes) -> str:
    """The content address of a blob: its SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def _digest(parts: tuple[str, ...], *, size: int) -> bytes:
    hasher = hashlib.blake2b(digest_size=size)
    for part in parts:
        raw = part.encode()
        hasher.update(len(raw).to_bytes(4, "big"))
        hasher.update(raw)
    return hasher.digest()
