"""The routes of `/client/v4`, and what becomes of errors. Mount it there."""

from collections.abc import Awaitable, Callable

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from skerry.services.intents.apps import PLATFORM_FAULTS
from skerry.services.intents.errors import IntentError
from skerry.wire.cloudflare import assets, scripts, users, versions
from skerry.wire.cloudflare.call import Gate, Handler
from skerry.wire.cloudflare.envelope import failure
from skerry.wire.cloudflare.errors import INTERNAL, METHOD_NOT_ALLOWED, NO_ROUTE, ApiError, from_intent, no_route, unavailable
from skerry.wire.cloudflare.unsupported import product_of
from skerry.wire.cloudflare.use_cases import UseCases

log = structlog.get_logger()

ACCOUNT = "/accounts/{account}"
SCRIPT = ACCOUNT + "/workers/scripts/{name}"
SERVICE = ACCOUNT + "/workers/services/{name}"
WORKER = ACCOUNT + "/workers/workers/{name}"

READS: tuple[tuple[str, Handler], ...] = (
    ("/user", users.get_user),
    ("/accounts", users.list_accounts),
    ("/memberships", users.list_memberships),
    (ACCOUNT, users.get_account),
    (ACCOUNT + "/workers/subdomain", users.get_subdomain),
    (ACCOUNT + "/workers/scripts", scripts.list_scripts),
    (ACCOUNT + "/workers/workers", scripts.list_workers),
    (ACCOUNT + "/workers/tails/by-consumer/{name}", scripts.get_nothing),
    (ACCOUNT + "/workers/domains", scripts.get_nothing),
    (ACCOUNT + "/storage/kv/namespaces", scripts.get_empty_page),
    (ACCOUNT + "/workers/durable_objects/namespaces", scripts.get_empty_page),
    (ACCOUNT + "/containers/applications", scripts.get_empty_page),
    (ACCOUNT + "/containers/dash/applications", scripts.get_empty_page),
    ("/zones", scripts.get_empty_page),
    (WORKER, scripts.get_worker),
    (SERVICE, scripts.get_service),
    (SERVICE + "/environments/production/content/v2", scripts.get_content),
    (SERVICE + "/environments/production/bindings", scripts.get_bindings),
    (SERVICE + "/environments/production/routes", scripts.get_nothing),
    (SERVICE + "/environments/production/subdomain", scripts.get_subdomain),
    (SERVICE + "/environments/production", scripts.get_environment),
    (SCRIPT, scripts.get_content),
    (SCRIPT + "/content/v2", scripts.get_content),
    (SCRIPT + "/settings", scripts.get_settings),
    (SCRIPT + "/script-settings", scripts.get_script_settings),
    (SCRIPT + "/subdomain", scripts.get_subdomain),
    (SCRIPT + "/schedules", scripts.get_schedules),
    (SCRIPT + "/references", scripts.get_references),
    (SCRIPT + "/versions", versions.list_versions),
    (SCRIPT + "/versions/{version}", versions.get_version),
    (SCRIPT + "/deployments", versions.list_deployments),
    (SCRIPT + "/deployments/{deployment}", versions.get_deployment),
    (SCRIPT + "/secrets", versions.list_secrets),
    (SCRIPT + "/secrets/{secret}", versions.get_secret),
)

WRITES: tuple[tuple[str, str, Handler], ...] = (
    ("PUT", ACCOUNT + "/workers/subdomain", users.put_subdomain),
    ("DELETE", SERVICE, scripts.delete_script),
    ("DELETE", SCRIPT, scripts.delete_script),
    ("DELETE", WORKER, scripts.delete_script),
    ("PATCH", SCRIPT + "/settings", scripts.patch_settings),
    ("PATCH", SCRIPT + "/script-settings", scripts.patch_script_settings),
    ("POST", SCRIPT + "/subdomain", scripts.post_subdomain),
    ("PUT", SCRIPT + "/schedules", scripts.put_schedules),
    ("PUT", SCRIPT + "/routes", scripts.put_routes),
    ("POST", SCRIPT + "/deployments", versions.post_deployment),
    ("PUT", SCRIPT + "/secrets", versions.put_secret),
    ("DELETE", SCRIPT + "/secrets/{secret}", versions.delete_secret),
    ("PATCH", SCRIPT + "/secrets-bulk", versions.patch_secrets),
    ("PATCH", WORKER + "/versions/latest", versions.patch_latest_version),
)


def make_app(use_cases: UseCases) -> Starlette:
    """An ASGI application for `Mount("/client/v4", …)`; it has no state of its own and no lifespan."""
    gate = Gate(use_cases)
    endpoints: dict[str, dict[str, Endpoint]] = {}
    for path, handler in READS:
        endpoints.setdefault(path, {})["GET"] = gate(handler, "read")
    for method, path, handler in WRITES:
        endpoints.setdefault(path, {})[method] = gate(handler, "write")
    endpoints.setdefault(SCRIPT, {})["PUT"] = gate.upload(scripts.put_script)
    endpoints.setdefault(SCRIPT + "/versions", {})["POST"] = gate.upload(versions.post_version)
    endpoints[SCRIPT + "/assets-upload-session"] = {"POST": gate.upload(assets.post_session)}
    endpoints[ACCOUNT + "/workers/assets/upload"] = {"POST": gate.asset_upload(assets.post_files)}
    endpoints["/user/tokens/verify"] = {"GET": users.TokenVerification(use_cases).verify}
    endpoints[ACCOUNT + "/tokens/verify"] = endpoints["/user/tokens/verify"]
    app = Starlette(
        routes=[Route(path, _by_method(methods), methods=list(METHODS)) for path, methods in endpoints.items()],
        exception_handlers={
            ApiError: _on_api_error,
            IntentError: _on_intent_error,
            HTTPException: _on_http_exception,
            ClientDisconnect: _on_disconnect,
            Exception: _on_bug,
            **dict.fromkeys(PLATFORM_FAULTS, _on_platform_fault),
        },
    )
    app.router.redirect_slashes = False
    return app


Endpoint = Callable[[Request], Awaitable[Response]]
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def _by_method(endpoints: dict[str, Endpoint]) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        if method not in endpoints:
            allowed = {"Allow": ", ".join(endpoints)}
            refusal = ApiError(405, METHOD_NOT_ALLOWED, f"{request.method} is not allowed here.", headers=allowed)
            raise _not_there(request) or refusal
        return await endpoints[method](request)

    return endpoint


def _not_there(request: Request) -> ApiError | None:
    """In words, if the path belongs to a product that is not there yet."""
    product = product_of(request.scope["path"])
    return None if product is None else ApiError(404, NO_ROUTE, f"Skerry does not support {product} yet.")


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return failure(error)


async def _on_intent_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, IntentError)
    return failure(from_intent(error))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return failure(_not_there(request) or no_route(request.scope["path"]))


async def _on_platform_fault(request: Request, error: Exception) -> Response:
    log.warning("platform_fault", method=request.method, path=request.scope["path"], error=type(error).__name__, text=str(error))
    return failure(unavailable())


async def _on_disconnect(request: Request, error: Exception) -> Response:
    return failure(ApiError(400, INTERNAL, "The client went away."))


async def _on_bug(request: Request, error: Exception) -> Response:
    log.error("bug", method=request.method, path=request.scope["path"], exc_info=error)
    return failure(ApiError(500, INTERNAL, "Something is broken inside the platform; its log says more."))
