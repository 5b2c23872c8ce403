"""One authorised request, and the wrapper that makes one of each request: who, which account, may they."""

import re
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Literal, final

import anyio
from starlette.requests import Request
from starlette.responses import Response

from skerry.core.types.account import Account
from skerry.core.types.ids import AccountId, TokenId
from skerry.services.accounts import NotFound, Principal, Unauthenticated
from skerry.wire.cloudflare import errors
from skerry.wire.cloudflare.errors import ApiError
from skerry.wire.cloudflare.present import source_of
from skerry.wire.cloudflare.use_cases import UseCases

Need = Literal["read", "write"]

BEARER = re.compile(r"[Bb]earer +([A-Za-z0-9._~+/=-]{1,2048}) *\Z")
UPLOADS_AT_ONCE_MAX = 8  # each holds up to 72 MiB while it arrives; others wait, unread
UPLOADS_OF_ACCOUNT_MAX = 3  # so that no account keeps the others waiting; wrangler sends three at once


@final
class Call:
    """What a handler works with. `account` is set on paths that name one."""

    def __init__(self, request: Request, use_cases: UseCases, principal: Principal, account: Account | None) -> None:
        self.request = request
        self.accounts = use_cases.accounts
        self.apps = use_cases.apps
        self.assets = use_cases.assets
        self.addresses = use_cases.addresses
        self.principal = principal
        self._account = account

    @property
    def account(self) -> Account:
        assert self._account is not None, "this path names no account"
        return self._account

    @property
    def name(self) -> str:
        """The app's name in the path, as it was written."""
        return self.request.path_params["name"]

    @property
    def source(self) -> str:
        return source_of(self.request.headers.get("user-agent", ""))

    @property
    def author(self) -> str:
        return email_of(self.principal, self.addresses.suffix)


Handler = Callable[[Call], Awaitable[Response]]


def email_of(principal: Principal, suffix: str) -> str:
    """Tokens have no mail; this names the token where clients want to show one."""
    return f"{re.sub(r'[^A-Za-z0-9._-]', '-', principal.name)}@{suffix}"


@final
class UploadSlots:
    """Few large bodies at once, fewer of one account."""

    def __init__(self) -> None:
        self._all = anyio.Semaphore(UPLOADS_AT_ONCE_MAX)
        self._accounts: dict[AccountId, anyio.Semaphore] = {}
        self._users: Counter[AccountId] = Counter()

    @asynccontextmanager
    async def one_of(self, account: AccountId) -> AsyncGenerator[None]:
        own = self._accounts.setdefault(account, anyio.Semaphore(UPLOADS_OF_ACCOUNT_MAX))
        self._users[account] += 1
        try:
            async with own, self._all:
                yield
        finally:
            self._users[account] -= 1
            if not self._users[account]:
                del self._users[account], self._accounts[account]


@final
class Gate:
    """Turns handlers into endpoints."""

    def __init__(self, use_cases: UseCases) -> None:
        self._use_cases = use_cases
        self._slots = UploadSlots()

    def __call__(self, handler: Handler, need: Need) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            return await handler(await self.admit(request, need))

        return endpoint

    def upload(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """For large bodies: few at once."""

        async def endpoint(request: Request) -> Response:
            call = await self.admit(request, "write")
            async with self._slots.one_of(call.account.id):
                return await handler(call)

        return endpoint

    def asset_upload(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """Authorised by the token of an upload session."""

        async def endpoint(request: Request) -> Response:
            account = await self._account(request)
            await self._use_cases.assets.verify(account.id, bearer(request))
            principal = Principal(token=TokenId(""), name="assets", scope="read", account=account.id)
            async with self._slots.one_of(account.id):
                return await handler(Call(request, self._use_cases, principal, account))

        return endpoint

    async def admit(self, request: Request, need: Need) -> Call:
        """Raises `ApiError`."""
        principal = await self.principal(request)
        if "account" not in request.path_params:
            return Call(request, self._use_cases, principal, None)
        account_id = AccountId(request.path_params["account"])
        if not (principal.may_write(account_id) if need == "write" else principal.may_read(account_id)):
            raise ApiError(403, errors.AUTHENTICATION, "Authentication error")
        return Call(request, self._use_cases, principal, await self._account(request))

    async def principal(self, request: Request) -> Principal:
        try:
            return await self._use_cases.accounts.authenticate(bearer(request))
        except Unauthenticated:
            raise ApiError(401, errors.AUTHENTICATION, "Authentication error") from None

    async def _account(self, request: Request) -> Account:
        try:
            return await self._use_cases.accounts.account(AccountId(request.path_params["account"]))
        except NotFound:
            raise errors.no_route(request.scope["path"]) from None


def bearer(request: Request) -> str:
    """The secret of the Authorization header; raises `ApiError`."""
    values = request.headers.getlist("authorization")
    if not values:
        raise ApiError(401, errors.MISSING_CREDENTIALS, 'Authentication failed: the "Authorization: Bearer" header is missing')
    match = BEARER.match(values[0]) if len(values) == 1 else None
    if match is None:
        raise ApiError(
            400,
            errors.INVALID_HEADERS,
            "Invalid request headers",
            also=((6111, "Invalid format for Authorization header"),),
        )
    return match[1]
