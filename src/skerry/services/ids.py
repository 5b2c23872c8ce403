"""Fresh ids and secrets from an injected source of randomness, so that a simulated world is deterministic."""

import base64
from collections.abc import Callable
from typing import final
from uuid import UUID

RandomBytes = Callable[[int], bytes]
"""`secrets.token_bytes`, or a seeded stand-in."""

SECRET_BYTES = 32


@final
class Ids:
    def __init__(self, random_bytes: RandomBytes) -> None:
        self._random_bytes = random_bytes

    def uuid(self) -> str:
        """A version 4 UUID."""
        return str(UUID(bytes=self._random_bytes(16), version=4))

    def hex32(self) -> str:
        """32 hex digits: the form of Cloudflare's account ids, script tags and the like."""
        return self._random_bytes(16).hex()

    def secret(self) -> str:
        """256 random bits in 43 characters that are safe in headers, URLs and shells."""
        return base64.urlsafe_b64encode(self._random_bytes(SECRET_BYTES)).rstrip(b"=").decode()
