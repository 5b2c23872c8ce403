"""Who is calling, and which accounts there are for them."""

from starlette.requests import Request
from starlette.responses import Response

from skerry.services.accounts import Unauthenticated
from skerry.wire.cloudflare import present
from skerry.wire.cloudflare.call import Call, bearer, email_of
from skerry.wire.cloudflare.envelope import listed, ok, timestamp
from skerry.wire.cloudflare.errors import BAD_REQUEST, INVALID_TOKEN, ApiError
from skerry.wire.cloudflare.use_cases import UseCases


class TokenVerification:
    """Its own endpoint: a wrong token has a code of its own here."""

    def __init__(self, use_cases: UseCases) -> None:
        self._use_cases = use_cases

    async def verify(self, request: Request) -> Response:
        try:
            principal = await self._use_cases.accounts.authenticate(bearer(request))
        except Unauthenticated:
            raise ApiError(401, INVALID_TOKEN, "Invalid API Token") from None
        result: dict[str, object] = {"id": principal.token, "status": "active"}
        if principal.expires_ms is not None:
            result["expires_on"] = timestamp(principal.expires_ms)
        return ok(result)


async def get_user(call: Call) -> Response:
    return ok(
        {
            "id": call.principal.token,
            "email": email_of(call.principal, call.addresses.suffix),
            "username": call.principal.name,
            "two_factor_authentication_enabled": False,
            "suspended": False,
        }
    )


async def list_accounts(call: Call) -> Response:
    wanted = call.request.query_params.get("name")
    accounts = [a for a in await call.accounts.visible_accounts(call.principal) if wanted is None or a.name == wanted]
    return listed(call.request, [present.account(account) for account in accounts])


async def list_memberships(call: Call) -> Response:
    accounts = await call.accounts.visible_accounts(call.principal)
    role = {"read": "Read only", "write": "Developer", "admin": "Administrator"}[call.principal.scope]
    return listed(
        call.request,
        [{"id": a.id, "status": "accepted", "account": present.account(a), "roles": [role]} for a in accounts],
    )


async def get_account(call: Call) -> Response:
    return ok(present.account(call.account))


async def get_subdomain(call: Call) -> Response:
    return ok({"subdomain": call.addresses.subdomain(call.account.name)})


async def put_subdomain(call: Call) -> Response:
    raise ApiError(409, BAD_REQUEST, "The subdomain of an account follows from its name and cannot be changed.")
