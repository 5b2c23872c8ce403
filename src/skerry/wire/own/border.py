"""The border of the own API: who calls, what the body says. Everything behind it is checked."""

import re
from typing import TypeVar

import msgspec
from starlette.requests import ClientDisconnect, HTTPConnection, Request

from skerry.core.types.ids import AccountId, AppName, SiteId
from skerry.kit.record import Record, decode
from skerry.services.accounts import DNS_LABEL, Accounts, Principal, Unauthenticated
from skerry.wire.own.errors import Refusal

BODY_BYTES_MAX = 64 * 1024  # of most requests: a few names
TARGET_CHARS_MAX = 128
ACCOUNT_ID = re.compile(r"[0-9a-f]{32}\Z")
PLACE = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\Z")

B = TypeVar("B", bound=Record)


async def authenticated(request: HTTPConnection, accounts: Accounts) -> Principal:
    """The caller, by `Authorization: Bearer …`; raises `Refusal` 401."""
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise Refusal(
            401, "unauthenticated", "an `Authorization: Bearer` header with a token is needed", hint="`skerry env` prints one"
        )
    try:
        return await accounts.authenticate(secret.strip())
    except Unauthenticated:
        raise Refusal(
            401, "unauthenticated", "this token is unknown, revoked or expired", hint="`skerry env` prints one that works"
        ) from None


async def operator(request: Request, accounts: Accounts) -> Principal:
    """As `authenticated`, for what only an operator may do; raises `Refusal` 403."""
    principal = await authenticated(request, accounts)
    if not principal.is_admin:
        raise Refusal(403, "forbidden", "only an operator's token may do this", hint="use a token of scope admin")
    return principal


async def overseer(request: Request, accounts: Accounts) -> Principal:
    """As `authenticated`, for what is about the machines: any scope, but no tenant; raises `Refusal` 403."""
    principal = await authenticated(request, accounts)
    if principal.account is not None:
        raise Refusal(403, "forbidden", "an account's token does not see the machines", hint="use an operator's token")
    return principal


async def body(request: Request, as_type: type[B], *, bytes_max: int = BODY_BYTES_MAX) -> B:
    """The JSON body, strictly as `as_type`; raises `Refusal` 400 or 413. Never reads more than the limit."""
    data = bytearray()
    try:
        async for chunk in request.stream():
            data += chunk
            if len(data) > bytes_max:
                raise Refusal(413, "too_large", f"the body is larger than {bytes_max} bytes")
    except ClientDisconnect:
        raise Refusal(400, "invalid", "the body ended early") from None
    try:
        return decode(bytes(data), as_type)
    except msgspec.ValidationError as error:
        raise Refusal(400, "invalid", f"the body is not what is asked for: {error}") from None
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Refusal(400, "invalid", f"the body is not JSON: {error}") from None


async def writer(request: Request, accounts: Accounts) -> AccountId:
    """The account of the path, for who may change its apps; raises `Refusal` 403 or 404."""
    return (await author(request, accounts))[1]


async def author(request: HTTPConnection, accounts: Accounts) -> tuple[Principal, AccountId]:
    """As `writer`, with who it is."""
    principal = await authenticated(request, accounts)
    account = await account_id(accounts, request.path_params["account"], principal)
    if not principal.may_write(account):
        raise Refusal(403, "forbidden", "this token may only read", hint="`skerry token create --scope write` makes another")
    return principal, account


def place(text: str) -> str:
    """The name of a site or node; raises `Refusal` 404: nothing can have another form."""
    if not PLACE.match(text):
        raise Refusal(404, "not_found", f"there is no site or node {text[:TARGET_CHARS_MAX]!r}", hint="`skerry nodes` lists them")
    return text


def site_of(request: Request) -> SiteId | None:
    """`?site=`, if given."""
    text = request.query_params.get("site")
    return None if text is None else SiteId(place(text))


def app_of(request: HTTPConnection) -> AppName:
    """`{app}` of the path; raises `Refusal` 404."""
    name = request.path_params["app"]
    if not DNS_LABEL.match(name):
        raise Refusal(404, "not_found", f"there is no app {name[:TARGET_CHARS_MAX]!r}", hint="`skerry apps` lists them")
    return AppName(name)


async def account_id(accounts: Accounts, text: str, principal: Principal) -> AccountId:
    """The account with this id or name, if the caller may see it; raises `accounts.NotFound`."""
    unknown = Refusal(
        404, "not_found", f"there is no account {text[:TARGET_CHARS_MAX]!r}", hint="`skerry account list` shows them"
    )
    for account in await accounts.visible_accounts(principal):
        if text in (account.id, account.name):
            return account.id
    raise unknown
