"""Accounts and tokens: who there is, and who is calling.

A token's secret is 256 random bits, shown once; the store holds its SHA-256 only, and finds the token by it, so
that no comparison of secrets can be timed.
"""

import hashlib
import os
import re
from pathlib import Path
from typing import TypeVar, final

from skerry.core.types.account import Account, Scope, Token
from skerry.core.types.ids import AccountId, TokenId
from skerry.kit import record
from skerry.kit.record import Record
from skerry.ports.clock import Clock
from skerry.ports.store import Check, Conflict, Delete, Put, Store
from skerry.services.ids import Ids, RandomBytes

ACCOUNTS = "accounts/"
ACCOUNT_NAMES = "account-names/"
TOKENS = "tokens/"
TOKEN_SECRETS = "token-secrets/"  # noqa: S105 - a key, not a secret
R = TypeVar("R", bound=Record)

BOOTSTRAP = "token-bootstrap"  # the SHA-256 of the admin secret that the first start put into its file

DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")
SECRET_PREFIX = "skerry_"  # noqa: S105 - lets people and leak scanners recognise a token
SECRET_CHARS_MAX = 256  # nothing longer is ever hashed
TOKEN_NAME_CHARS_MAX = 64
ACCOUNTS_MAX = 10_000
TOKENS_MAX = 100_000


class AccountsError(Exception):
    """The family of this module's errors; the text is for people."""


class Unauthenticated(AccountsError):
    """No token has this secret, or it has expired."""


class Invalid(AccountsError):
    """A name or a time that cannot be."""


class NameTaken(AccountsError):
    """Another account has this name."""


class NotFound(AccountsError):
    """No such account or token."""


class Principal(Record):
    """Who calls. `account` None is an operator's token, which reaches every account."""

    token: TokenId
    name: str
    scope: Scope
    account: AccountId | None = None
    expires_ms: int | None = None

    @property
    def is_admin(self) -> bool:
        return self.scope == "admin" and self.account is None

    def may_read(self, account: AccountId) -> bool:
        return self.account is None or self.account == account

    def may_write(self, account: AccountId) -> bool:
        return self.may_read(account) and self.scope in ("write", "admin")


class NewToken(Record):
    """The only moment at which the secret is known."""

    token: Token
    secret: str


@final
class Accounts:
    def __init__(self, store: Store, clock: Clock, random_bytes: RandomBytes) -> None:
        self._store = store
        self._clock = clock
        self._ids = Ids(random_bytes)

    async def create_account(self, name: str) -> Account:
        """Raises `Invalid` (the name is no DNS label) or `NameTaken`."""
        if not DNS_LABEL.match(name):
            raise Invalid("an account's name is 1 to 63 lower-case letters, digits and hyphens, with a hyphen at neither end")
        account = Account(id=AccountId(self._ids.hex32()), name=name, created_ms=self._clock.now_ms())
        name_key = f"{ACCOUNT_NAMES}{name}"
        try:
            await self._store.transact(
                [Check(key=name_key, revision=0)],
                [Put(key=name_key, value=account.id.encode()), Put(key=_account_key(account.id), value=record.encode(account))],
            )
        except Conflict:
            raise NameTaken(f"there is an account {name!r} already") from None
        return account

    async def account(self, account_id: AccountId) -> Account:
        """Raises `NotFound`."""
        entry = await self._store.get(_account_key(account_id)) if _is_hex32(account_id) else None
        if entry is None:
            raise NotFound("there is no such account")
        return record.decode(entry.value, Account)

    async def account_by_name(self, name: str) -> Account:
        """Raises `NotFound`."""
        entry = await self._store.get(f"{ACCOUNT_NAMES}{name}") if DNS_LABEL.match(name) else None
        if entry is None:
            raise NotFound(f"there is no account {name!r}")
        return await self.account(AccountId(entry.value.decode()))

    async def list_accounts(self) -> tuple[Account, ...]:
        """By name."""
        return tuple(sorted(await self._all(ACCOUNTS, Account, ACCOUNTS_MAX), key=lambda account: account.name))

    async def visible_accounts(self, principal: Principal) -> tuple[Account, ...]:
        if principal.account is None:
            return await self.list_accounts()
        return (await self.account(principal.account),)

    async def create_token(
        self, name: str, scope: Scope, *, account: AccountId | None = None, expires_ms: int | None = None
    ) -> NewToken:
        """Raises `Invalid` or `NotFound` (the account). Scope admin and `account` None is an operator's token."""
        if not (0 < len(name) <= TOKEN_NAME_CHARS_MAX and name.isprintable()):
            raise Invalid(f"a token's name is 1 to {TOKEN_NAME_CHARS_MAX} printable characters")
        if expires_ms is not None and expires_ms <= self._clock.now_ms():
            raise Invalid("the token would have expired already")
        if scope == "admin" and account is not None:
            raise Invalid("scope admin is for operators' tokens, which have no account")
        if account is not None:
            await self.account(account)
        return await self._store_token(SECRET_PREFIX + self._ids.secret(), name, scope, account, expires_ms)

    async def list_tokens(self, *, account: AccountId | None = None) -> tuple[Token, ...]:
        """Of one account, or of all; oldest first."""
        tokens = await self._all(TOKENS, Token, TOKENS_MAX)
        return tuple(
            sorted((t for t in tokens if account is None or t.account == account), key=lambda token: (token.created_ms, token.id))
        )

    async def revoke_token(self, token_id: TokenId) -> Token:
        """From the return on nobody is let in with it. Raises `NotFound`."""
        entry = await self._store.get(_token_key(token_id)) if _is_hex32(token_id) else None
        if entry is None:
            raise NotFound("there is no such token")
        token = record.decode(entry.value, Token)
        await self._store.transact([], [Delete(key=_token_key(token.id)), Delete(key=_secret_key(token.secret_sha256))])
        return token

    async def authenticate(self, secret: str) -> Principal:
        """Raises `Unauthenticated`, which never says what was wrong."""
        if not secret or len(secret) > SECRET_CHARS_MAX:
            raise Unauthenticated("unknown token")
        pointer = await self._store.get(_secret_key(_sha256(secret)))
        entry = await self._store.get(_token_key(TokenId(pointer.value.decode()))) if pointer else None
        if entry is None:
            raise Unauthenticated("unknown token")
        token = record.decode(entry.value, Token)
        if token.expires_ms is not None and token.expires_ms <= self._clock.now_ms():
            raise Unauthenticated("unknown token")
        return Principal(token=token.id, name=token.name, scope=token.scope, account=token.account, expires_ms=token.expires_ms)

    async def ensure_admin(self, path: Path, *, account_name: str = "default") -> Account:
        """At the first start: the first account, and an admin token whose secret is in `path`, mode 0600.

        Safe to repeat and to interrupt: the file is written before the store knows the secret, and a secret that the store
        had and lost (it was revoked) is replaced by a new one. Raises OSError.
        """
        try:
            account = await self.create_account(account_name)
        except NameTaken:
            account = await self.account_by_name(account_name)
        marker = await self._store.get(BOOTSTRAP)
        secret = _read_secret(path)
        if secret is not None and marker is not None and marker.value.decode() == _sha256(secret):
            if await self._store.get(_secret_key(_sha256(secret))) is not None:
                return account
            secret = None
        if secret is None:
            secret = SECRET_PREFIX + self._ids.secret()
            _write_secret(path, secret)
        await self._store_token(secret, "admin", "admin", None, None, bootstrap=True)
        return account

    async def _store_token(
        self, secret: str, name: str, scope: Scope, account: AccountId | None, expires_ms: int | None, *, bootstrap: bool = False
    ) -> NewToken:
        token = Token(
            id=TokenId(self._ids.hex32()),
            name=name,
            secret_sha256=_sha256(secret),
            scope=scope,
            created_ms=self._clock.now_ms(),
            account=account,
            expires_ms=expires_ms,
        )
        ops = [
            Put(key=_token_key(token.id), value=record.encode(token)),
            Put(key=_secret_key(token.secret_sha256), value=token.id.encode()),
        ]
        if bootstrap:
            ops.append(Put(key=BOOTSTRAP, value=token.secret_sha256.encode()))
        await self._store.transact([Check(key=_secret_key(token.secret_sha256), revision=0)], ops)
        return NewToken(token=token, secret=secret)

    async def _all(self, prefix: str, as_type: type[R], count_max: int) -> list[R]:
        found: list[R] = []
        after: str | None = None
        while len(found) < count_max:
            page = await self._store.range(prefix, after=after)
            found.extend(record.decode(entry.value, as_type) for entry in page.entries)
            if not page.more or not page.entries:
                break
            after = page.entries[-1].key
        return found


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _is_hex32(text: str) -> bool:
    return len(text) == 32 and all(c in "0123456789abcdef" for c in text)


def _account_key(account: AccountId) -> str:
    return f"{ACCOUNTS}{account}"


def _token_key(token: TokenId) -> str:
    return f"{TOKENS}{token}"


def _secret_key(secret_sha256: str) -> str:
    return f"{TOKEN_SECRETS}{secret_sha256}"


def _read_secret(path: Path) -> str | None:
    """None if the file is absent, or is not what `_write_secret` writes."""
    try:
        text = path.read_text("ascii").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    return text if text.startswith(SECRET_PREFIX) and len(text) <= SECRET_CHARS_MAX else None


def _write_secret(path: Path, secret: str) -> None:
    """Whole or not at all, and never readable by others, not even for a moment."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secret + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
