"""The own API, /v1: what operators and developers ask of the platform beside deploying.

    GET  /healthz                              200 while it answers at all (no token)
    GET  /metrics                              Prometheus text (operator's token)
    GET  /v1/whoami                            token, scope, accounts
    GET  /v1/status                            sites, nodes, instances, apps
    GET  /v1/sites   /v1/nodes   /v1/apps      parts of it
    GET  /v1/apps/{account}/{app}/explain      ?site=lhr     why it runs where it runs
    GET  /v1/apps/{account}/{app}/demand       what its users ask for, city by city
    GET  /v1/settings                          what placement weighs; PATCH {"settings": {name: n | null}, "rtts_ms": {…}}
    GET  /v1/demand                            every app's, in all
    GET  /v1/apps/{account}/{app}/scale        PATCH {"scale": {field: value | null}}   what it asks for
    POST /v1/plan    ?account=                 {"apps": {app: {"scale"}}, "sites": {site: {"state"}}}  what it would change
    GET  /v1/map                               sites and apps, as the world map draws them
    GET  /v1/map/{account}/{app}               where the app answers, and its users' round trips by metro and region
    GET  /map                                  the world map as a page (no token: it asks for one)
    GET  /v1/apps/{account}/{app}/rollout      waves, cities, the gate's numbers; POST {"action": "pause" | "resume" | "abort"}
    GET  /v1/maintenance         POST {"action": "start", "task", "max_unavailable_percent"?, "sites"?, "regions"?} or
                                      {"action": "pause" | "resume" | "abort"}   of the whole fleet
    POST /v1/drain   /v1/undrain               {"target": "lhr" | "lhr-1"}
    GET  /v1/accounts            POST {"name"}
    GET  /v1/tokens  ?account=   POST {"name", "scope", "account"?, "expires_ms"?}   DELETE /v1/tokens/{id}

Answers are JSON without an envelope; errors are `{"error": {"code", "message", "hint"}}`. An account's token
sees what belongs to its account; `{account}` is an id or a name.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ExceptionHandler

from skerry.core.policy.scale_changes import FIELDS, not_default
from skerry.core.types.account import Account, Token
from skerry.core.types.app import App
from skerry.core.types.change import Change
from skerry.core.types.ids import TokenId
from skerry.core.types.view import AccountView, MaintenanceStart, ScaleView, TokenView, WhoView
from skerry.kit.record import Record, encode
from skerry.ports.operations import Operations
from skerry.services.accounts import Accounts, Principal
from skerry.services.intents.apps import Apps
from skerry.wire.own import border
from skerry.wire.own.errors import ERROR_TYPES, Refusal, answer, refusal_of
from skerry.wire.own.map import map_page, world_map
from skerry.wire.own.metrics import CONTENT_TYPE, exposition
from skerry.wire.own.programs import ProgramsApi
from skerry.wire.own.talk import TalkApi

PERCENT_MAX = 50  # more at a time is not maintenance
PLACES_MAX = 1_000

Handler = Callable[[Request], Awaitable[object]]


class TargetBody(Record):
    target: str


class ScaleBody(Record):
    """`scale`: changes by field; null takes the default back."""

    scale: dict[str, Any]


class SettingsBody(Record):
    """Changes by field, and round trips by pair of sites; null takes the default, or the measurement, back."""

    settings: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    rtts_ms: dict[str, dict[str, float | None]] = msgspec.field(default_factory=dict[str, dict[str, float | None]])


class RolloutBody(Record):
    action: Literal["pause", "resume", "abort"]


class MaintenanceBody(Record):
    """All but `action` is for "start" alone."""

    action: Literal["start", "pause", "resume", "abort"]
    task: str | None = None
    max_unavailable_percent: int = 10
    sites: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()


class AccountBody(Record):
    name: str


class TokenBody(Record):
    """`account` (id or name) absent: an operator's token."""

    name: str
    scope: Literal["read", "write", "admin"] = "write"
    account: str | None = None
    expires_ms: int | None = None


def own_app(operations: Operations, accounts: Accounts, apps: Apps, talk: TalkApi) -> Starlette:
    """The whole dialect as an ASGI application; mount it at the root, behind the other dialects."""
    api = _Api(operations, accounts, apps)
    programs = ProgramsApi(accounts, apps)
    routes: list[BaseRoute] = [
        Route("/healthz", api.counted(api.healthz), methods=["GET"]),
        Route("/metrics", api.counted(api.metrics), methods=["GET"]),
        Route("/v1/whoami", api.counted(api.whoami), methods=["GET"]),
        Route("/v1/status", api.counted(api.status), methods=["GET"]),
        Route("/v1/sites", api.counted(api.sites), methods=["GET"]),
        Route("/v1/nodes", api.counted(api.nodes), methods=["GET"]),
        Route("/v1/apps", api.counted(api.apps), methods=["GET"]),
        Route("/v1/apps/{account}/{app}/explain", api.counted(api.explain), methods=["GET"]),
        Route("/v1/apps/{account}/{app}/demand", api.counted(api.demand), methods=["GET"]),
        Route("/v1/settings", api.counted(api.settings), methods=["GET"]),
        Route("/v1/settings", api.counted(api.change_settings), methods=["PATCH"]),
        Route("/v1/demand", api.counted(api.demands), methods=["GET"]),
        Route("/v1/apps/{account}/{app}/scale", api.counted(api.scale), methods=["GET"]),
        Route("/v1/apps/{account}/{app}/scale", api.counted(api.change_scale), methods=["PATCH"]),
        Route("/v1/apps/{account}/{app}/program", api.counted(programs.put_program), methods=["PUT"]),
        Route("/v1/apps/{account}/{app}", api.counted(programs.delete_app), methods=["DELETE"]),
        Route("/v1/apps/{account}/{app}/instances", api.counted(api.instances), methods=["GET"]),
        WebSocketRoute("/v1/apps/{account}/{app}/instances/{instance}/talk", talk.talk),
        Route("/v1/images/{account}/missing", api.counted(programs.missing_blobs), methods=["POST"]),
        Route("/v1/images/{account}/blobs/{digest}", api.counted(programs.put_blob), methods=["PUT"]),
        Route("/v1/plan", api.counted(api.plan), methods=["POST"]),
        Route("/v1/map", api.counted(api.world_map), methods=["GET"]),
        Route("/v1/map/{account}/{app}", api.counted(api.app_map), methods=["GET"]),
        Route("/map", api.counted(api.map_page), methods=["GET"]),
        Route("/v1/apps/{account}/{app}/rollout", api.counted(api.rollout), methods=["GET"]),
        Route("/v1/apps/{account}/{app}/rollout", api.counted(api.change_rollout), methods=["POST"]),
        Route("/v1/maintenance", api.counted(api.maintenance), methods=["GET"]),
        Route("/v1/maintenance", api.counted(api.change_maintenance), methods=["POST"]),
        Route("/v1/drain", api.counted(api.drain), methods=["POST"]),
        Route("/v1/undrain", api.counted(api.undrain), methods=["POST"]),
        Route("/v1/accounts", api.counted(api.list_accounts), methods=["GET"]),
        Route("/v1/accounts", api.counted(api.create_account), methods=["POST"]),
        Route("/v1/tokens", api.counted(api.list_tokens), methods=["GET"]),
        Route("/v1/tokens", api.counted(api.create_token), methods=["POST"]),
        Route("/v1/tokens/{token}", api.counted(api.revoke_token), methods=["DELETE"]),
    ]
    handlers: dict[int | type[Exception], ExceptionHandler] = {HTTPException: _on_http_error, Exception: _on_error}
    return Starlette(routes=routes, exception_handlers=handlers)


class _Api:
    def __init__(self, operations: Operations, accounts: Accounts, apps: Apps) -> None:
        self._operations = operations
        self._accounts = accounts
        self._apps = apps
        self._answers: Counter[tuple[str, int]] = Counter()  # (handler, status)

    def counted(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """`handler` answers a Response or a value to write as JSON; how it ended is counted for /metrics."""
        name = handler.__name__

        async def endpoint(request: Request) -> Response:
            try:
                response = _response(await handler(request))
            except ERROR_TYPES as error:
                response = answer(refusal_of(error))
            except Exception:
                self._answers[name, 500] += 1
                raise
            self._answers[name, response.status_code] += 1
            return response

        return endpoint

    async def healthz(self, _request: Request) -> object:
        return {"status": "ok"}

    async def metrics(self, request: Request) -> object:
        await border.overseer(request, self._accounts)
        text = exposition(await self._operations.status(None), self._answers)
        return Response(text, media_type=CONTENT_TYPE)

    async def whoami(self, request: Request) -> object:
        principal = await self._who(request)
        visible = await self._accounts.visible_accounts(principal)
        return WhoView(
            token=principal.token,
            name=principal.name,
            scope=principal.scope,
            account=principal.account,
            accounts=tuple(_account_view(account) for account in visible),
        )

    async def status(self, request: Request) -> object:
        principal = await self._who(request)
        return await self._operations.status(principal.account)

    async def sites(self, request: Request) -> object:
        principal = await self._who(request)
        return {"sites": (await self._operations.status(principal.account)).sites}

    async def nodes(self, request: Request) -> object:
        await border.overseer(request, self._accounts)
        return {"nodes": (await self._operations.status(None)).nodes}

    async def apps(self, request: Request) -> object:
        principal = await self._who(request)
        return {"apps": (await self._operations.status(principal.account)).apps}

    async def instances(self, request: Request) -> object:
        principal = await self._who(request)
        account = await border.account_id(self._accounts, request.path_params["account"], principal)
        return {"instances": await self._operations.instances(account, border.app_of(request))}

    async def explain(self, request: Request) -> object:
        principal = await self._who(request)
        account = await border.account_id(self._accounts, request.path_params["account"], principal)
        return await self._operations.explain(account, border.app_of(request), border.site_of(request))

    async def demand(self, request: Request) -> object:
        principal = await self._who(request)
        account = await border.account_id(self._accounts, request.path_params["account"], principal)
        return await self._operations.demand(account, border.app_of(request))

    async def settings(self, request: Request) -> object:
        await self._who(request)
        return self._operations.settings()

    async def change_settings(self, request: Request) -> object:
        await border.operator(request, self._accounts)
        asked = await border.body(request, SettingsBody)
        return await self._operations.change_settings(asked.settings, asked.rtts_ms)

    async def demands(self, request: Request) -> object:
        principal = await self._who(request)
        return {"demand": await self._operations.demands(principal.account)}

    async def scale(self, request: Request) -> object:
        principal = await self._who(request)
        account = await border.account_id(self._accounts, request.path_params["account"], principal)
        return await self._scale_view(await self._apps.app(account, border.app_of(request)))

    async def change_scale(self, request: Request) -> object:
        account = await border.writer(request, self._accounts)
        changes = (await border.body(request, ScaleBody)).scale
        return await self._scale_view(await self._apps.scales.change(account, border.app_of(request), changes))

    async def plan(self, request: Request) -> object:
        principal = await self._who(request)
        asked = request.query_params.get("account", principal.account or "default")
        account = await border.account_id(self._accounts, asked, principal)
        return await self._operations.difference(principal.account, account, await border.body(request, Change))

    async def world_map(self, request: Request) -> object:
        principal = await self._who(request)
        return world_map(await self._operations.status(principal.account))

    async def app_map(self, request: Request) -> object:
        principal = await self._who(request)
        account = await border.account_id(self._accounts, request.path_params["account"], principal)
        return await self._operations.app_map(account, border.app_of(request))

    async def map_page(self, _request: Request) -> object:
        return map_page()

    async def rollout(self, request: Request) -> object:
        principal = await self._who(request)
        account = await border.account_id(self._accounts, request.path_params["account"], principal)
        return await self._operations.rollout(account, border.app_of(request))

    async def change_rollout(self, request: Request) -> object:
        account = await border.writer(request, self._accounts)
        asked = await border.body(request, RolloutBody)
        return await self._operations.change_rollout(account, border.app_of(request), asked.action)

    async def maintenance(self, request: Request) -> object:
        await border.overseer(request, self._accounts)
        return await self._operations.maintenance()

    async def change_maintenance(self, request: Request) -> object:
        principal = await border.operator(request, self._accounts)
        asked = await border.body(request, MaintenanceBody)
        if asked.action != "start":
            return await self._operations.change_maintenance(asked.action)
        if not 1 <= asked.max_unavailable_percent <= PERCENT_MAX:
            raise Refusal(400, "invalid", f"max_unavailable_percent is 1 to {PERCENT_MAX}", hint="10 is the usual choice")
        if asked.task is None or not border.PLACE.match(asked.task):
            raise Refusal(400, "invalid", "task is the name of what is to be done", hint='an example: "reboot"')
        if len(asked.sites) + len(asked.regions) > PLACES_MAX:
            raise Refusal(400, "invalid", f"at most {PLACES_MAX} places can be named")
        start = MaintenanceStart(
            task=asked.task, max_unavailable_percent=asked.max_unavailable_percent, sites=asked.sites, regions=asked.regions
        )
        return await self._operations.start_maintenance(start, principal.name)

    async def drain(self, request: Request) -> object:
        await border.operator(request, self._accounts)
        return await self._operations.drain(border.place((await border.body(request, TargetBody)).target))

    async def undrain(self, request: Request) -> object:
        await border.operator(request, self._accounts)
        return await self._operations.undrain(border.place((await border.body(request, TargetBody)).target))

    async def list_accounts(self, request: Request) -> object:
        principal = await self._who(request)
        return {"accounts": [_account_view(a) for a in await self._accounts.visible_accounts(principal)]}

    async def create_account(self, request: Request) -> object:
        await border.operator(request, self._accounts)
        account = await self._accounts.create_account((await border.body(request, AccountBody)).name)
        return _created(_account_view(account))

    async def list_tokens(self, request: Request) -> object:
        principal = await self._who(request)
        account = principal.account
        asked = request.query_params.get("account")
        if asked is not None:
            account = await border.account_id(self._accounts, asked, principal)
        return {"tokens": [_token_view(token) for token in await self._accounts.list_tokens(account=account)]}

    async def create_token(self, request: Request) -> object:
        principal = await border.operator(request, self._accounts)
        asked = await border.body(request, TokenBody)
        account = None
        if asked.account is not None:
            account = await border.account_id(self._accounts, asked.account, principal)
        made = await self._accounts.create_token(asked.name, asked.scope, account=account, expires_ms=asked.expires_ms)
        return _created(_token_view(made.token, secret=made.secret))

    async def revoke_token(self, request: Request) -> object:
        principal = await border.operator(request, self._accounts)
        token = TokenId(request.path_params["token"])
        if token == principal.token:
            raise Refusal(409, "conflict", "a token does not revoke itself", hint="use another operator's token")
        return _token_view(await self._accounts.revoke_token(token))

    async def _scale_view(self, app: App) -> ScaleView:
        return ScaleView(
            account=app.account,
            app=app.name,
            scale={name: getattr(app.scale, name) for name in FIELDS},
            set_fields=not_default(app.scale),
            warnings=await self._apps.scales.warnings(app.scale),
        )

    async def _who(self, request: Request) -> Principal:
        return await border.authenticated(request, self._accounts)


def _response(value: object) -> Response:
    if isinstance(value, Response):
        return value
    return Response(encode(value), media_type="application/json", headers={"cache-control": "no-store"})


def _created(value: object) -> Response:
    response = _response(value)
    response.status_code = 201
    return response


def _account_view(account: Account) -> AccountView:
    return AccountView(account=account.id, name=account.name, created_ms=account.created_ms)


def _token_view(token: Token, *, secret: str | None = None) -> TokenView:
    return TokenView(
        token=token.id,
        name=token.name,
        scope=token.scope,
        account=token.account,
        created_ms=token.created_ms,
        expires_ms=token.expires_ms,
        secret=secret,
    )


async def _on_error(_request: Request, error: Exception) -> Response:
    return answer(refusal_of(error))


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Unknown paths and methods, as Starlette's router sees them."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        response = answer(Refusal(405, "method_not_allowed", f"{request.method} is not for {request.url.path}"))
        response.headers.update(error.headers or {})
        return response
    if error.status_code == 404:
        return answer(Refusal(404, "not_found", f"there is nothing at {request.url.path[:256]}", hint="the API is under /v1"))
    return answer(Refusal(error.status_code, "invalid", error.detail))
