"""Accounts and tokens: who may do what."""

from typing import Literal

from skerry.core.types.ids import AccountId, TokenId
from skerry.kit.record import Record

Scope = Literal["read", "write", "admin"]
"""read: see the account's apps; write: change them; admin: everything in every account."""


class Account(Record):
    """A tenant: the boundary of isolation, quota and naming. `name` is a DNS label, unique."""

    id: AccountId
    name: str
    created_ms: int


class Token(Record):
    """A bearer token. Only the SHA-256 of the secret is stored; the secret is shown once.

    `account` is None for an operator's token, which reaches every account.
    """

    id: TokenId
    name: str
    secret_sha256: str
    scope: Scope
    created_ms: int
    account: AccountId | None = None
    expires_ms: int | None = None
